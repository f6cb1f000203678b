// A specialist system as its makers would write it with JAX-WS: classes generated from a description, content as packages (MTOM).
// Usage: Client WSDL BASE_URL CA PORTAL_P12 DEPARTMENT_P12 READER SERVICE   (keystores have the password "laboratory")

import de.xoev.transport.xta._211.*;
import eu.osci.ws._2014._10.transport.MessageMetaData;
import java.io.*;
import java.net.URL;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.util.*;
import javax.net.ssl.*;
import javax.xml.bind.*;
import javax.xml.transform.stream.StreamSource;
import javax.xml.ws.*;
import javax.xml.ws.handler.MessageContext;
import javax.xml.ws.soap.*;

public class Client {
    static final String NAMESPACES = "xmlns:wsa='http://www.w3.org/2005/08/addressing' xmlns:xta='http://xoev.de/transport/xta/211' "
        + "xmlns:meta='http://www.osci.eu/ws/2014/10/transport' xmlns:osci='http://www.osci.eu/ws/2008/05/transport'";
    static JAXBContext context;

    // What an element of the schema is in the classes that were generated.
    @SuppressWarnings("unchecked")
    static <T> T read(String xml) throws JAXBException {
        String declared = xml.replaceFirst("^<([^ />]+)", "<$1 " + NAMESPACES);
        Object found = context.createUnmarshaller().unmarshal(new StreamSource(new StringReader(declared)));
        return (T) (found instanceof JAXBElement ? ((JAXBElement<?>) found).getValue() : found);
    }

    static String write(Object thing) throws JAXBException {
        StringWriter text = new StringWriter();
        context.createMarshaller().marshal(thing, text);
        return text.toString();
    }

    static SSLSocketFactory tls(String ca, String p12) throws Exception {
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        try (InputStream in = Files.newInputStream(Path.of(ca))) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        KeyStore own = KeyStore.getInstance("PKCS12");
        try (InputStream in = Files.newInputStream(Path.of(p12))) {
            own.load(in, "laboratory".toCharArray());
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, "laboratory".toCharArray());
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return tls.getSocketFactory();
    }

    static <T> T port(T port, String address, SSLSocketFactory tls) {
        Map<String, Object> request = ((BindingProvider) port).getRequestContext();
        request.put(BindingProvider.ENDPOINT_ADDRESS_PROPERTY, address);
        request.put("com.sun.xml.ws.transport.https.client.SSLSocketFactory", tls);
        return port;
    }

    static String contentType(Object port) {
        Map<?, ?> headers = (Map<?, ?>) ((BindingProvider) port).getResponseContext().get(MessageContext.HTTP_RESPONSE_HEADERS);
        for (Map.Entry<?, ?> header : headers.entrySet()) {
            if ("content-type".equalsIgnoreCase((String) header.getKey())) {
                return ((List<?>) header.getValue()).get(0).toString();
            }
        }
        return "";
    }

    static void expect(boolean holds, Object what) {
        if (!holds) {
            throw new AssertionError(String.valueOf(what));
        }
    }

    public static void main(String[] args) throws Exception {
        String base = args[1], reader = args[5], service = args[6];
        XTAService description = new XTAService(new URL(args[0]));
        context = JAXBContext.newInstance("de.xoev.transport.xta._211:eu.osci.ws._2014._10.transport:eu.osci.ws._2008._05.transport:org.w3._2005._08.addressing");
        WebServiceFeature[] features = {new MTOMFeature(true, 0), new AddressingFeature(true, false)};
        SSLSocketFactory portal = tls(args[2], args[3]), department = tls(args[2], args[4]);
        SendPortType send = port(description.getSendXtaPort(features), base + "/xta/send", portal);
        ManagementPortType management = port(description.getManagementPort(features), base + "/xta/management", portal);
        MsgBoxPortType box = port(description.getMsgBoxPort(features), base + "/xta/msgbox", department);

        byte[] document = new byte[300_000], attachment = new byte[200_000];
        new Random(1).nextBytes(document);
        new Random(2).nextBytes(attachment);
        Base64.Encoder base64 = Base64.getEncoder();
        String id = "urn:de:xta:messageid:jaxws:" + UUID.randomUUID();
        String metadata = "<meta:MessageMetaData><meta:DeliveryAttributes/><meta:Originators><meta:Author><meta:Identifier type='xoev'>ags:07315000</meta:Identifier></meta:Author></meta:Originators>"
            + "<meta:Destinations><meta:Reader><meta:Identifier type='xoev'>" + reader + "</meta:Identifier></meta:Reader></meta:Destinations>"
            + "<meta:MsgIdentification><wsa:MessageID>" + id + "</wsa:MessageID></meta:MsgIdentification><meta:Qualifier><meta:Subject>Antrag</meta:Subject><meta:Service>" + service + "</meta:Service>"
            + "<meta:BusinessScenario><meta:Undefined>unbekannt</meta:Undefined></meta:BusinessScenario><meta:MessageType listURI='urn:de:payloadSchema:elementName' listVersionID='1.0' payloadSchema='urn:x'><code>antrag</code></meta:MessageType></meta:Qualifier></meta:MessageMetaData>";
        String content = "<xta:GenericContentContainer><xta:ContentContainer><xta:Message contentType='application/octet-stream' filename='d.bin'>" + base64.encodeToString(document)
            + "</xta:Message><xta:Attachment contentType='application/octet-stream' filename='a.bin'>" + base64.encodeToString(attachment) + "</xta:Attachment></xta:ContentContainer></xta:GenericContentContainer>";
        String author = "<meta:Author><meta:Identifier type='xoev'>" + reader + "</meta:Identifier></meta:Author>";

        send.sendMessage(read(content), read(metadata), null);
        expect(contentType(send).startsWith("multipart/related"), contentType(send));
        send.sendMessage(read(content), read(metadata), null);
        try {
            send.sendMessage(read(content.replace("d.bin", "e.bin")), read(metadata), null);
            expect(false, "an id was used twice");
        } catch (ParameterIsNotValidException fault) {
            expect("9024".equals(fault.getFaultInfo().getErrorCode().getCode()), fault.getFaultInfo().getErrorCode().getCode());
        }
        String report = write(management.getTransportReport(read("<wsa:MessageID>" + id + "</wsa:MessageID>"), read(author.replace(reader, "ags:07315000"))));
        expect(report.contains(id) && report.contains("Status>0<"), report);

        Holder<MessageMetaData> found = new Holder<>();
        GenericContentContainer fetched = null;
        while (fetched == null) {
            try {
                fetched = box.getMessage(read("<osci:MsgBoxFetchRequest><osci:MsgSelector><wsa:MessageID>" + id + "</wsa:MessageID></osci:MsgSelector></osci:MsgBoxFetchRequest>"), read(author), found, new Holder<>());
            } catch (InvalidMessageIDException notYet) {
                expect("9070".equals(notYet.getFaultInfo().getErrorCode().getCode()), notYet);
            }
        }
        expect(contentType(box).startsWith("multipart/related"), contentType(box));
        String text = write(fetched);
        expect(text.contains(base64.encodeToString(document)) && text.contains(base64.encodeToString(attachment)), "the content is another");
        box.close(read("<osci:MsgBoxCloseRequest MsgBoxRequestID='1'><osci:LastMsgReceived>" + id + "</osci:LastMsgReceived></osci:MsgBoxCloseRequest>"), read(author));
        report = write(management.getTransportReport(read("<wsa:MessageID>" + id + "</wsa:MessageID>"), read(author.replace(reader, "ags:07315000"))));
        expect(report.contains("Status>1<"), report);
        System.out.println("packages in both directions");
    }
}
