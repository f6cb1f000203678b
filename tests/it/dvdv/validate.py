"""Validates every answer of a DVDV2 server against the published interface description, with an independent validator.

Usage: validate.py SCHEMA BASE_URL CLIENT_CERTIFICATE CLIENT_KEY BEARER
The published file is corrected by corrections.json beside this script; the file itself is not part of this repository.
"""

import base64
import hashlib
import json
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml
from openapi_schema_validator import OAS30Validator

ENTRIES = ["intern/directory", "extern/standaloneauth/directory", "extern/bundesmasterauth/directory"]
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
JSON = "application/json; charset=utf-8"


def corrected(path):
    spec = yaml.safe_load(open(path, encoding="utf-8"))
    corrections = json.load(open(pathlib.Path(__file__).with_name("corrections.json"), encoding="utf-8"))
    for operation in (one for methods in spec["paths"].values() for one in methods.values()):
        name = operation["operationId"]
        if name in corrections["responses"]:
            operation["responses"]["200"]["content"][JSON]["schema"] = corrections["responses"][name]
        for status in ("400", "401"):
            operation["responses"][status] = {"description": "", "content": PROBLEM}
    spec["components"]["schemas"]["AccessToken"] = corrections["accessToken"]
    return spec


def operations(spec):
    return {op["operationId"]: (method, path, op) for path, ms in spec["paths"].items() for method, op in ms.items()}


class Server:
    def __init__(self, base, token):
        self.base, self.token = base, token

    def ask(self, method, path, entry, question=None, raw=None, form=None, authorization="right"):
        url, data, headers = self.base + path.replace("{entryPath}", entry), None, {}
        if method == "get" and (question is not None or raw is not None):
            text = raw if raw is not None else json.dumps(question, ensure_ascii=False)
            url += "?request_json=" + urllib.parse.quote(text, safe="")
        elif form is not None:
            data, headers["Content-Type"] = urllib.parse.urlencode(form).encode(), "application/x-www-form-urlencoded"
        elif method == "post":
            text = raw if raw is not None else json.dumps(question)
            data, headers["Content-Type"] = text.encode(), JSON
        if authorization == "right":
            kinds = {ENTRIES[1]: "EmbeddedBearer " + self.token[0], ENTRIES[2]: "Bearer " + self.token[1]}
            if entry in kinds:
                headers["Authorization"] = kinds[entry]
        request = urllib.request.Request(url, data=data, method=method.upper(), headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            reply = opener.open(request, timeout=60)
        except urllib.error.HTTPError as error:
            reply = error
        return reply.status, reply.headers.get("Content-Type"), reply.read()


def check(spec, operation, status, content_type, body, expected):
    problems = []
    if status not in expected:
        problems.append(f"status {status} instead of {expected}: {body[:200]!r}")
    declared = operation["responses"].get(str(status))
    if declared is None:
        problems.append(f"status {status} is not declared")
    elif "content" not in declared:
        if body:
            problems.append("a body where none is declared")
    elif content_type not in declared["content"]:
        problems.append(f"content type {content_type} is not declared")
    else:
        schema = {**declared["content"][content_type]["schema"], "components": spec["components"]}
        for error in OAS30Validator(schema).iter_errors(json.loads(body)):
            problems.append(f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}")
    return problems


def assertion(certificate, key, audience):
    der = subprocess.run(["openssl", "x509", "-in", certificate, "-outform", "DER"], capture_output=True, check=True)
    subject, now = "fp:" + hashlib.sha1(der.stdout).hexdigest(), int(time.time())
    encode = lambda value: base64.urlsafe_b64encode(value).rstrip(b"=")
    claims = {"iss": subject, "sub": subject, "aud": audience, "iat": now, "nbf": now, "exp": now + 60, "jti": str(now)}
    text = b".".join(encode(json.dumps(one).encode()) for one in ({"alg": "RS256", "typ": "JWT"}, claims))
    signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=text, capture_output=True, check=True)
    return (text + b"." + encode(signed.stdout)).decode()


def main(schema, base, certificate, key, bearer):
    spec = corrected(schema)
    known, wrong, count = operations(spec), [], 0
    server = Server(base, ["", bearer])

    def expect(name, expected, entry=ENTRIES[0], **request):
        nonlocal count
        count += 1
        method, path, operation = known[name]
        status, content_type, body = server.ask(method, path, entry, **request)
        wrong.extend(f"{name} {request}: {one}" for one in check(spec, operation, status, content_type, body, expected))
        return body

    url = base + known["createToken"][1]
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion(certificate, key, url),
    }
    server.token[0] = json.loads(expect("createToken", [200], form=form))["access_token"]
    expect("createToken", [401], form={**form, "client_assertion": "x.y.z"})
    expect("createToken", [400], form={"grant_type": "password"})
    fingerprint = hashlib.sha1(
        subprocess.run(["openssl", "x509", "-in", certificate, "-outform", "DER"], capture_output=True, check=True).stdout
    ).hexdigest()
    uri = "http://amtsbote.example/dvdv/ozg{0}/1/ozg{0}v1Antrag.wsdl".format
    mainz = {"category": "Meldebehörde", "organizationKey": "ags:07315000"}
    service = {"organizationKey": "wgb:073150000000", "serviceSpecificationUri": uri("10092")}
    element = {"serviceElementType": "OSCI_INTERMEDIARY", "parameterType": "URI",
               "parameterValue": "https://intermediaer-2.amtsbote.example/osci-manager-entry/externalentry"}
    questions = {
        "findAuthorityDescription": (mainz, {**mainz, "organizationKey": "ags:99999999"}, [404]),
        "findAuthorityDescriptions": (mainz, {"organizationKey": "ags:99999999"}, [200]),
        "findServiceDescription": (service, {**service, "organizationKey": "wgb:999999999999"}, [404]),
        "findCertificateByFingerprint": ({"fingerPrint": fingerprint}, {"fingerPrint": "0" * 40}, [404]),
        "findCategories": ({"fingerPrint": fingerprint, "organizationKey": "vms:010000000001"},
                           {"fingerPrint": "0" * 40, "organizationKey": "ags:07315000"}, [200]),
        "verifyCategory": ({"fingerPrint": fingerprint, "category": "Vermittlungsstelle"},
                           {"fingerPrint": fingerprint, "category": "Passbehörde"}, [200]),
        "findServiceSpecificationUrisByCategory": ({"category": "Meldebehörde"}, {"category": "Nichts"}, [200]),
        "findOrganizationsByServiceElement": (element, {**element, "parameterValue": "https://nowhere.example"}, [200]),
    }
    for entry in ENTRIES:
        for name in ("findAllCategories", "findByType", "getServiceVersion"):
            expect(name, [200], entry=entry)
        for name, (hit, miss, status) in questions.items():
            expect(name, [200], entry=entry, question=hit)
            expect(name, status, entry=entry, question=miss)
    for key, ozg in [("psb:07315000_00", "10119"), ("jbc:066110000000", "10082"), ("pol:160000000000", "10592"),
                     ("wla:150850370370", "10144"), ("ags:07332050", "10124"), ("soz:010620000000", "10206")]:
        expect("findServiceDescription", [200], question={"organizationKey": key, "serviceSpecificationUri": uri(ozg)})
    expect("findServiceDescription", [204], question={"organizationKey": "ags:16056000", "serviceSpecificationUri": uri("10124")})
    expect("findAuthorityDescription", [200], question={"category": "Sozialamt", "organizationKey": "soz:010620000000"})
    for name, (hit, miss, _) in questions.items():
        expect(name, [400], raw="{Nonsense")
        expect(name, [400], question={})
        if name not in ("findAuthorityDescriptions", "findCertificateByFingerprint"):
            batch = "batch" + name[0].upper() + name[1:]
            expect(batch, [200], question=[hit, miss, hit])
            expect(batch, [200], question=[])
            expect(batch, [400], question=[hit] * 201)
            expect(batch, [400], question={})
            expect(batch, [400], question=[hit, {}])
    for name in known.keys() - {"createToken"}:
        for entry in ENTRIES[1:]:
            expect(name, [401], entry=entry, question=[] if name.startswith("batch") else {}, authorization=None)
    print(f"{count} answers of {len(known)} operations validated, {len(wrong)} problems")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
