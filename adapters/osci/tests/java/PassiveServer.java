// SPDX-License-Identifier: EUPL-1.2

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;

import de.osci.osci12.OSCIException;
import de.osci.osci12.common.DialogHandler;
import de.osci.osci12.common.OSCIErrorException;
import de.osci.osci12.messageparts.ContentContainer;
import de.osci.osci12.messageparts.EncryptedDataOSCI;
import de.osci.osci12.messagetypes.AcceptDelivery;
import de.osci.osci12.messagetypes.OSCIMessage;
import de.osci.osci12.messagetypes.OSCIRequest;
import de.osci.osci12.messagetypes.PassiveRecipientParser;
import de.osci.osci12.messagetypes.ProcessDelivery;
import de.osci.osci12.messagetypes.ResponseToAcceptDelivery;
import de.osci.osci12.messagetypes.ResponseToProcessDelivery;
import de.osci.osci12.messagetypes.SOAPFault;
import de.osci.osci12.roles.Addressee;

/**
 * Passive recipient on a loopback port. The option answer selects the behaviour: ok, reject (feedback with the option code), unsigned,
 * badsig (wrong signature value), plain (not encrypted), nocontent (positive answer without content to ProcessDelivery), garbage,
 * fault (SOAP fault with the option code), status (HTTP error with the option code) or close (no HTTP response at all).
 */
final class PassiveServer
{
  private final Options options;

  private final ProbeKeys keys;

  private final String name;

  private final String answer;

  private final Addressee recipient;

  private final HttpServer server;

  private final ExecutorService threads;

  private final List<Json> received = new ArrayList<>();

  private int counter;

  PassiveServer(Options options, ProbeKeys keys, String name, String signatureAlgorithm) throws Exception
  {
    this.options = options;
    this.keys = keys;
    this.name = name;
    answer = options.get("answer", "ok");
    // Read all options now, because the requests arrive in other threads.
    options.get("code");
    options.number("delay", 0);
    options.get("record");
    options.get("subject");
    options.get("text", "answer");
    recipient = new Addressee(keys.signer(name, signatureAlgorithm, answer.equals("badsig")), keys.decrypter(name));
    server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), (int)options.number("port", 0)), 0);
    threads = Executors.newCachedThreadPool(task -> {
      Thread thread = new Thread(task, "passive-" + name);
      thread.setDaemon(true);
      return thread;
    });
    server.setExecutor(threads);
    server.createContext("/", this::handle);
    server.start();
  }

  int port()
  {
    return server.getAddress().getPort();
  }

  String name()
  {
    return name;
  }

  void stop()
  {
    server.stop(0);
    threads.shutdownNow();
  }

  /** What has been received so far. */
  List<Json> received(boolean clear)
  {
    synchronized (received)
    {
      List<Json> result = new ArrayList<>(received);
      if (clear)
      {
        received.clear();
      }
      return result;
    }
  }

  private void handle(HttpExchange exchange) throws IOException
  {
    byte[] body = exchange.getRequestBody().readAllBytes();
    Json entry = new Json().with("method", exchange.getRequestMethod()).with("path", exchange.getRequestURI().getPath())
                           .with("httpContentType", exchange.getRequestHeaders().getFirst("Content-Type"))
                           .with("requestBytes", body.length);
    int status = 200;
    byte[] response = new byte[0];
    try
    {
      long delay = options.number("delay", 0);
      if (delay > 0)
      {
        Thread.sleep(delay);
      }
      int number = store(body, 0, "request");
      if (answer.equals("status"))
      {
        status = Integer.parseInt(options.get("code", "500"));
      }
      // Default supplier, digest algorithm and some counters of the library are static.
      synchronized (PassiveServer.class)
      {
        response = answer(body, entry);
      }
      store(response, number, "response");
    }
    catch (Exception ex)
    {
      Describe.exception(entry, ex);
      status = 500;
    }
    entry.with("httpStatus", status).with("responseBytes", response.length);
    synchronized (received)
    {
      received.add(entry);
    }
    if (answer.equals("close"))
    {
      exchange.close();
      return;
    }
    exchange.getResponseHeaders().set("Content-Type", "text/xml");
    exchange.sendResponseHeaders(status, response.length == 0 ? -1 : response.length);
    try (OutputStream out = exchange.getResponseBody())
    {
      out.write(response);
    }
  }

  private int store(byte[] data, int number, String kind) throws IOException
  {
    if (!options.has("record"))
    {
      return 0;
    }
    File folder = new File(options.get("record"));
    folder.mkdirs();
    synchronized (this)
    {
      if (number == 0)
      {
        number = ++counter;
      }
    }
    Files.write(new File(folder, String.format("push-%03d-%s.bin", number, kind)).toPath(), data);
    return number;
  }

  private byte[] answer(byte[] body, Json entry) throws Exception
  {
    DialogHandler.setDefaultSupplier(recipient);
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    String feedback = "0800";
    OSCIRequest request;
    try
    {
      request = new PassiveRecipientParser().parseStream(new java.io.ByteArrayInputStream(body));
      entry.with("ok", true);
    }
    catch (OSCIErrorException ex)
    {
      // Error on the order level, e. g. a wrong signature: answered with feedback.
      Describe.exception(entry, ex);
      feedback = ex.getErrorCode();
      request = (OSCIRequest)ex.getOSCIMessage();
      if (request == null)
      {
        new SOAPFault("9000").writeToStream(out);
        return out.toByteArray();
      }
    }
    catch (Exception ex)
    {
      Describe.exception(entry, ex);
      String code = ex instanceof OSCIException ? ((OSCIException)ex).getErrorCode() : null;
      new SOAPFault(code != null && code.matches("\\d{4}") ? code : "9000").writeToStream(out);
      return out.toByteArray();
    }

    entry.putAll(Describe.message(request));
    if (request.intermediaryCertificatesH != null)
    {
      entry.with("intermediary", Describe.role(request.getDialogHandler().getClient()));
    }
    if (request instanceof AcceptDelivery)
    {
      AcceptDelivery accept = (AcceptDelivery)request;
      entry.with("messageId", accept.getMessageId()).with("subject", accept.getSubject())
           .with("processCard", Describe.processCard(accept.getProcessCardBundle()));
    }
    else
    {
      ProcessDelivery process = (ProcessDelivery)request;
      entry.with("messageId", process.getProcessCardBundle() == null ? null : process.getMessageId())
           .with("messageIdResponse", process.getMessageIdResponse())
           .with("processCard", Describe.processCard(process.getProcessCardBundle()));
    }
    entry.with("delivery", Describe.delivery(request, recipient, null));

    switch (answer)
    {
      case "garbage":
        return "this is not an OSCI message\r\n".getBytes("UTF-8");
      case "fault":
        new SOAPFault(options.get("code", "9000")).writeToStream(out);
        return out.toByteArray();
      case "status":
      case "close":
        return new byte[0];
      case "reject":
        feedback = options.get("code", "9805");
        break;
      case "ok":
      case "unsigned":
      case "badsig":
      case "plain":
      case "nocontent":
        break;
      default:
        throw new IllegalArgumentException("unknown answer " + answer);
    }
    if (answer.equals("plain"))
    {
      request.getDialogHandler().setEncryption(false);
    }
    boolean sign = !answer.equals("unsigned");
    if (request instanceof AcceptDelivery)
    {
      ResponseToAcceptDelivery response = new ResponseToAcceptDelivery((AcceptDelivery)request);
      response.setFeedback(new String[]{feedback});
      if (sign)
      {
        response.sign();
      }
      response.writeToStream(out, null);
    }
    else
    {
      ProcessDelivery process = (ProcessDelivery)request;
      ResponseToProcessDelivery response = new ResponseToProcessDelivery(process);
      response.setFeedback(new String[]{feedback});
      response.setMessageId(process.getMessageIdResponse());
      response.setSubject(options.get("subject"));
      if (feedback.startsWith("0") && !answer.equals("nocontent"))
      {
        Contents contents = new Contents(options, keys);
        options.preset("text", "answer");
        contents.build(response.getOriginator(), name, response.getAddressee(), "originator", target(response));
        entry.with("answered", contents.sent);
      }
      if (sign)
      {
        response.sign();
      }
      response.writeToStream(out, null);
    }
    entry.with("answer", feedback);
    return out.toByteArray();
  }

  private static Contents.Target target(ResponseToProcessDelivery response)
  {
    return new Contents.Target()
    {
      @Override
      public void add(ContentContainer container) throws OSCIException
      {
        response.addContentContainer(container);
      }

      @Override
      public void add(EncryptedDataOSCI encrypted) throws OSCIException
      {
        response.addEncryptedData(encrypted);
      }
    };
  }
}
