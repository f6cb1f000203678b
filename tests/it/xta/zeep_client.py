"""A specialist system as its makers would write it with zeep: all twelve operations and some of their faults.

Usage: zeep_client.py WSDL BASE_URL CA PORTAL_CERT PORTAL_KEY DEPARTMENT_CERT DEPARTMENT_KEY READER SERVICE
WSDL is a file or an address. Exits with 0 if everything was as the standard says.
"""

import base64
import datetime
import sys
import uuid

import requests
import zeep
from zeep.transports import Transport

wsdl, base, ca, portal_cert, portal_key, department_cert, department_key, READER, SERVICE = sys.argv[1:]
XTA = "{http://xoev.de/transport/xta/211}"
META = "{http://www.osci.eu/ws/2014/10/transport}"
OSCI = "{http://www.osci.eu/ws/2008/05/transport}"
AUTHOR = "ags:07315000"


class Party:
    """One account with its three ports."""

    def __init__(self, certificate, key, identifier):
        session = requests.Session()
        session.verify, session.cert, session.trust_env = ca, (certificate, key), False
        # Answers as the standard has them, not as zeep would like them.
        settings = zeep.Settings(strict=True, xml_huge_tree=False)
        self.client = zeep.Client(wsdl, transport=Transport(session=session), settings=settings)
        bind = lambda name, path: self.client.create_service(XTA + name, base + path)
        self.management = bind("managementHttpsBinding", "/xta/management")
        self.send = bind("sendXTAHttpsBinding", "/xta/send")
        self.msgbox = bind("msgBoxHttpsBinding", "/xta/msgbox")
        author = self.client.get_element(META + "Author")
        self.author = author(Identifier={"_value_1": identifier, "type": "xoev"})

    def element(self, name, *args, **kwargs):
        return self.client.get_element(name)(*args, **kwargs)

    def ask(self, operation, *args, **kwargs):
        return getattr(self.management, operation)(*args, _soapheaders=[self.author], **kwargs)

    def box(self, operation, *args, **kwargs):
        return getattr(self.msgbox, operation)(*args, _soapheaders=[self.author], **kwargs)


def fault(code, call, *args, **kwargs):
    """The call has to fail with this number in a detail of the standard."""
    try:
        call(*args, **kwargs)
    except zeep.exceptions.Fault as error:
        found = error.detail.findtext(".//code") if error.detail is not None else None
        assert found == code, (code, found, error.message)
        return
    raise AssertionError("no fault %s" % code)


def metadata(party, message_id, service=SERVICE, reader=READER, not_before=None):
    return party.element(
        META + "MessageMetaData",
        DeliveryAttributes={"Origin": datetime.datetime(2025, 3, 4, 9, 15, tzinfo=datetime.timezone.utc), **({"NotBefore": not_before} if not_before else {})},
        Originators={"Author": {"Identifier": {"_value_1": AUTHOR, "type": "xoev", "name": "Fachverfahren"}}},
        Destinations={"Reader": {"Identifier": {"_value_1": reader, "type": "xoev"}}},
        MsgIdentification={"MessageID": message_id},
        Qualifier={
            "Subject": "Wohngeld",
            "Service": service,
            "BusinessScenario": {"Defined": {"code": "XSOZIALES_DATA", "listURI": "urn:de:xta:codeliste:business.scenario", "listVersionID": "3"}},
            "MessageType": {"code": "antrag", "listURI": "urn:de:payloadSchema:elementName", "listVersionID": "1.0", "payloadSchema": "urn:wohngeld"},
        },
    )


def content(document, *attachments):
    one = lambda bytes_, name: {"_value_1": bytes_, "contentType": "application/xml", "filename": name}
    container = {"Message": one(document, "antrag.xml")}
    if attachments:
        container["Attachment"] = [one(bytes_, "anlage.xml") for bytes_ in attachments]
    return {"ContentContainer": container}


def value(thing):
    """The text of something that zeep may have wrapped because it can have attributes."""
    return getattr(thing, "_value_1", thing)


def send(party, message_id, document=b"<antrag/>", operation="sendMessage", **kwargs):
    return getattr(party.send, operation)(**content(document, b"<anlage/>"), _soapheaders=[metadata(party, message_id, **kwargs)])


def box_response(answer):
    """zeep names header blocks after the parts of messages, which are not the same in all descriptions."""
    header = answer.header
    return header.FetchResponseHeader if "FetchResponseHeader" in header else header.MsgBoxResponse


def status_list(party, **kwargs):
    answer = party.box("getStatusList", **kwargs)
    return box_response(answer), answer.body.MessageMetaData or []


portal, department = Party(portal_cert, portal_key, AUTHOR), Party(department_cert, department_key, READER)

portal.ask("checkAccountActive")
own = value(portal.ask("createMessageId"))
assert own.startswith("urn:de:xta:messageid:amtsbote:"), own
question = lambda service: [{"LookupService": {"Reader": {"Identifier": {"_value_1": READER, "type": "xoev"}}, "ServiceType": service}}]
result = lambda answer: answer[0] if isinstance(answer, list) else answer.LookupServiceResult[0]
known = portal.ask("lookupService", LookupServiceRequestList=question(SERVICE))
assert result(getattr(known, "LookupServiceResultList", known)).IsServiceAvailableValue.ServiceIsAvailable is True, known
open_ = portal.ask("lookupService", LookupServiceRequestList=question("urn:x:unbekannt"))
assert result(getattr(open_, "LookupServiceResultList", open_)).IsServiceAvailableValue.ServiceIsAvailableUnknown is True, open_
fault("9021", portal.ask, "lookupService", LookupServiceRequestList=question(""))

send(portal, own)
send(portal, own)
fault("9024", send, portal, own, b"<anderer/>")
fault("9013", send, portal, "urn:de:xta:messageid:zeep:%s" % uuid.uuid4(), service="urn:x:unbekannt")
fault("9022", send, portal, "urn:de:xta:messageid:zeep:%s" % uuid.uuid4(), reader="wgb:999999999999")
fault("9080", send, portal, "urn:de:xta:messageid:zeep:%s" % uuid.uuid4(), operation="sendMessageSync")
others = ["urn:de:xta:messageid:zeep:%s" % uuid.uuid4() for _ in range(2)]
for other in others:
    send(portal, other)
later = "urn:de:xta:messageid:zeep:%s" % uuid.uuid4()
send(portal, later, not_before=datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1))
portal.ask("cancelMessage", later)
fault("9100", portal.ask, "cancelMessage", later)
fault("9101", portal.ask, "cancelMessage", others[0])
fault("9022", portal.ask, "cancelMessage", "urn:de:xta:messageid:zeep:unbekannt")
report = lambda party, message_id: party.ask("getTransportReport", message_id)
assert report(portal, own).MessageStatus.Status == 0
assert report(portal, later).MessageStatus.Status == 2
fault("9070", report, portal, "urn:de:xta:messageid:zeep:unbekannt")

while True:
    response, listed = status_list(department, maxListItems=2, ListForm="MessageMetaData")
    if len(listed) == 2 and response.ItemsPending == 1:
        break
id_of = lambda entry: value(entry.MsgIdentification.MessageID)
received = [id_of(entry) for entry in listed]
following = department.box("getNextStatusList", MsgBoxRequestID=response.MsgBoxRequestID, LastMsgReceived=received)
ids = received + [id_of(entry) for entry in following.body.MessageMetaData]
assert sorted(ids) == sorted([own] + others), ids
assert listed[0].Qualifier.BusinessScenario.Defined.code == "XSOZIALES_DATA"

fetched = department.box("getMessage", MsgSelector={"MessageID": ids})
container = lambda answer: answer.body.ContentContainer
text = lambda part: part._value_1 if isinstance(part._value_1, bytes) else base64.b64decode(part._value_1)
assert text(container(fetched).Message) == b"<antrag/>", fetched
assert text(container(fetched).Attachment[0]) == b"<anlage/>"
request = box_response(fetched).MsgBoxRequestID
assert box_response(fetched).ItemsPending == 2
next_ = department.box("getNextMessage", MsgBoxRequestID=request, LastMsgReceived=[ids[0]])
assert value(next_.header.MessageMetaData.MsgIdentification.MessageID) == ids[1]
fault("9070", department.box, "getNextMessage", MsgBoxRequestID="urn:x:unbekannt", LastMsgReceived=[ids[0]])
fault("9070", department.box, "getMessage", MsgSelector={"MessageID": ["urn:x:unbekannt"]})
fault("9070", department.box, "close", MsgBoxRequestID="1", LastMsgReceived=[ids[0], "urn:x:unbekannt"])
department.box("close", MsgBoxRequestID="1", LastMsgReceived=ids)
department.box("close", MsgBoxRequestID="1", LastMsgReceived=ids)
response, listed = status_list(department)
assert listed == [] and response.NoMessageAvailable.reason.endswith("NoMatch"), response
for party in [portal, department]:
    assert report(party, own).MessageStatus.Status == 1
foreign = Party(portal_cert, portal_key, READER)
fault("9014", foreign.ask, "checkAccountActive")
print("all twelve operations")
