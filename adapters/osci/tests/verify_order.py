"""Verifies the order signature of a message of OSCI-Transport 1.2, written independently of the code under test.

usage: verify_order.py MESSAGE   (the unencrypted MIME package; exits with 0 if every digest and the signature are right)
"""
import base64
import hashlib
import re
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from lxml import etree

DS = "{http://www.w3.org/2000/09/xmldsig#}"
SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
DIGESTS = {
    "http://www.w3.org/2001/04/xmlenc#sha256": "sha256",
    "http://www.w3.org/2001/04/xmldsig-more#sha384": "sha384",
    "http://www.w3.org/2001/04/xmlenc#sha512": "sha512",
    "http://www.w3.org/2007/05/xmldsig-more#sha3-256": "sha3_256",
    "http://www.w3.org/2007/05/xmldsig-more#sha3-384": "sha3_384",
    "http://www.w3.org/2007/05/xmldsig-more#sha3-512": "sha3_512",
}
HASHES = {
    "sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512,
    "sha3-256": hashes.SHA3_256, "sha3-384": hashes.SHA3_384, "sha3-512": hashes.SHA3_512,
}


def package(data):
    head, rest = data.split(b"\r\n\r\n", 1)
    boundary = re.search(rb"boundary=([^;\r\n]+)", head).group(1)
    parts = []
    for piece in (b"\r\n" + rest).split(b"\r\n--" + boundary)[1:-1]:
        header, content = piece.lstrip(b"\r\n").split(b"\r\n\r\n", 1)
        ident = re.search(rb"Content-ID: <([^>]+)>", header).group(1).decode()
        parts.append((ident, content))
    return parts


def c14n(element):
    return etree.tostring(element, method="c14n", exclusive=False, with_comments=False)


parts = package(open(sys.argv[1], "rb").read())
root = etree.fromstring(parts[0][1], etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True))
attachments = dict(parts[1:])
header, body = root.find(SOAP + "Header"), root.find(SOAP + "Body")
block = next(one for one in header if etree.QName(one).localname in ("ClientSignature", "SupplierSignature"))
signature = block.find(DS + "Signature")
info = signature.find(DS + "SignedInfo")
wanted = {"#" + one.get("Id"): c14n(one) for one in list(header) + [body] if one is not block}
wanted.update({"cid:" + ident: content for ident, content in attachments.items()})
for reference in info.findall(DS + "Reference"):
    method = DIGESTS[reference.find(DS + "DigestMethod").get("Algorithm")]
    digest = hashlib.new(method, wanted.pop(reference.get("URI"))).digest()
    assert digest == base64.b64decode(reference.find(DS + "DigestValue").text), reference.get("URI")
assert not wanted, f"not signed: {sorted(wanted)}"
key_id = signature.find(DS + "KeyInfo").find(DS + "RetrievalMethod").get("URI")[1:]
holder = next(one for one in root.iter() if one.get("Id") == key_id)
der = base64.b64decode(next(holder.iter(DS + "X509Certificate")).text)
key = x509.load_der_x509_certificate(der).public_key()
value = base64.b64decode(signature.find(DS + "SignatureValue").text)
name = info.find(DS + "SignatureMethod").get("Algorithm").rsplit("#", 1)[1]
signed = c14n(info)
if name.startswith("ecdsa-"):
    half = len(value) // 2
    numbers = (int.from_bytes(value[:half], "big"), int.from_bytes(value[half:], "big"))
    key.verify(encode_dss_signature(*numbers), signed, ec.ECDSA(HASHES[name[6:]]()))
elif name.endswith("-rsa-MGF1"):
    algorithm = HASHES[name[:-len("-rsa-MGF1")]]()
    key.verify(value, signed, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm)
else:
    key.verify(value, signed, padding.PKCS1v15(), HASHES[name[4:]]())
