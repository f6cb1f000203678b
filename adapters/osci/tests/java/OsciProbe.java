// SPDX-License-Identifier: EUPL-1.2

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.security.MessageDigest;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.logging.Level;
import java.util.logging.Logger;

import de.osci.osci12.OSCIException;
import de.osci.osci12.common.DialogHandler;
import de.osci.osci12.encryption.Crypto;
import de.osci.osci12.extinterfaces.TransportI;
import de.osci.osci12.messageparts.ChunkInformation;
import de.osci.osci12.messageparts.ContentContainer;
import de.osci.osci12.messageparts.EncryptedDataOSCI;
import de.osci.osci12.messageparts.ProcessCardBundle;
import de.osci.osci12.messagetypes.ExitDialog;
import de.osci.osci12.messagetypes.FetchDelivery;
import de.osci.osci12.messagetypes.FetchProcessCard;
import de.osci.osci12.messagetypes.FetchRequestAbstract;
import de.osci.osci12.messagetypes.ForwardDelivery;
import de.osci.osci12.messagetypes.GetMessageId;
import de.osci.osci12.messagetypes.InitDialog;
import de.osci.osci12.messagetypes.MediateDelivery;
import de.osci.osci12.messagetypes.OSCIMessage;
import de.osci.osci12.messagetypes.OSCIRequest;
import de.osci.osci12.messagetypes.OSCIResponseTo;
import de.osci.osci12.messagetypes.PartialFetchDelivery;
import de.osci.osci12.messagetypes.PartialStoreDelivery;
import de.osci.osci12.messagetypes.ResponseToFetchAbstract;
import de.osci.osci12.messagetypes.ResponseToFetchDelivery;
import de.osci.osci12.messagetypes.ResponseToFetchProcessCard;
import de.osci.osci12.messagetypes.ResponseToForwardDelivery;
import de.osci.osci12.messagetypes.ResponseToGetMessageId;
import de.osci.osci12.messagetypes.ResponseToMediateDelivery;
import de.osci.osci12.messagetypes.ResponseToPartialFetchDelivery;
import de.osci.osci12.messagetypes.ResponseToPartialStoreDelivery;
import de.osci.osci12.messagetypes.ResponseToStoreDelivery;
import de.osci.osci12.messagetypes.StoreDelivery;
import de.osci.osci12.roles.Addressee;
import de.osci.osci12.roles.Intermed;
import de.osci.osci12.roles.Originator;
import de.osci.osci12.roles.Reader;
import de.osci.osci12.roles.Role;
import de.osci.osci12.soapheader.ControlBlockH;

/**
 * Drives the official OSCI 1.2 client library by commands from standard input; see README.md for the commands. Every command line is
 * answered by exactly one line with a JSON object on standard output. Log output of the library goes to standard error.
 */
public final class OsciProbe
{
  private final ProbeKeys keys;

  private final URI intermediary;

  private final X509Certificate intermediaryCipher;

  /** Dialogs kept open across commands (option dialog=name). */
  private final Map<String, DialogHandler> openDialogs = new HashMap<>();

  /** Inner messages of chunked stores by message id, for resuming. */
  private final Map<String, byte[]> innerMessages = new HashMap<>();

  /** Chunks received so far by message id, for resuming a chunked fetch. */
  private final Map<String, TreeMap<Integer, byte[]>> receivedChunks = new HashMap<>();

  private final Map<Integer, PassiveServer> servers = new LinkedHashMap<>();

  private OsciProbe(File keysFolder, String password, URI intermediary, File cipherCertificate) throws Exception
  {
    keys = new ProbeKeys(keysFolder, password);
    this.intermediary = intermediary;
    intermediaryCipher = ProbeKeys.certificate(cipherCertificate);
  }

  public static void main(String[] args) throws Exception
  {
    if (args.length != 4)
    {
      System.err.println("usage: java -cp <jars>:. OsciProbe <keysDir> <password> <intermediaryUrl> <intermediaryCipherCert.pem>");
      System.exit(2);
    }
    // The JDK would silently send a POST a second time after a lost connection; OSCI messages must not be repeated.
    System.setProperty("sun.net.http.retryPost", "false");
    Logger.getLogger("").setLevel(Level.parse(System.getProperty("probe.log", "SEVERE")));
    // Nothing but our own lines may appear on standard output.
    PrintStream out = new PrintStream(System.out, true, "UTF-8");
    System.setOut(System.err);

    OsciProbe probe = new OsciProbe(new File(args[0]), args[1], new URI(args[2]), new File(args[3]));
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
    String line;
    while ((line = in.readLine()) != null)
    {
      line = line.trim();
      if (line.isEmpty() || line.startsWith("#"))
      {
        continue;
      }
      if (line.equals("quit"))
      {
        out.println(new Json().with("ok", true).with("command", "quit"));
        break;
      }
      out.println(probe.run(line));
      out.flush();
    }
    System.exit(0);
  }

  /** Executes one command line; never throws. */
  private Json run(String line)
  {
    Json result = new Json().with("ok", true);
    ProbeTransport.Log log = new ProbeTransport.Log();
    List<Json> steps = new ArrayList<>();
    long start = System.nanoTime();
    Options options = null;
    try
    {
      options = new Options(line);
      result.with("command", options.command);
      new Command(options, log, steps, result).execute();
    }
    catch (Throwable ex)
    {
      Describe.exception(result, ex);
      result.withIfPresent("httpBody", log.errorBody);
    }
    if (log.requests > 0)
    {
      result.with("httpStatus", log.status).with("httpRequests", log.requests);
    }
    if (!steps.isEmpty())
    {
      result.with("steps", steps);
    }
    if (options != null && Boolean.TRUE.equals(result.get("ok")) && !options.unused().isEmpty())
    {
      result.with("unusedOptions", options.unused());
    }
    return result.with("seconds", Math.round((System.nanoTime() - start) / 1e6) / 1e3);
  }

  /** For recorded responses: challenge, conversation id and sequence number are taken over without comparison. */
  private static final class LaxDialogHandler extends DialogHandler
  {
    LaxDialogHandler(Originator client, Intermed supplier, TransportI transport)
    {
      super(client, supplier, transport);
    }

    @Override
    public void checkControlBlock(ControlBlockH block)
    {
      prevChallenge = block.getChallenge();
      if (block.getConversationID() != null)
      {
        getControlblock().setConversationID(block.getConversationID());
      }
      getControlblock().setChallenge(block.getChallenge());
      getControlblock().setResponse(block.getResponse());
    }
  }

  /** Sends a message that has been constructed and returns the response. */
  private interface Sender<R extends OSCIResponseTo>
  {
    R send() throws Exception;
  }

  /** One command with its options and its result. */
  private final class Command
  {
    private final Options options;

    private final ProbeTransport.Log log;

    private final List<Json> steps;

    private final Json result;

    /** URI of the signature algorithm, or null for the default. */
    private final String signatureAlgorithm;

    private String clientName;

    Command(Options options, ProbeTransport.Log log, List<Json> steps, Json result)
    {
      this.options = options;
      this.log = log;
      this.steps = steps;
      this.result = result;
      DialogHandler.setDigestAlgorithm(Algorithms.uri(options.get("digest", "sha256")));
      signatureAlgorithm = options.has("sigalg") ? Algorithms.uri(options.get("sigalg")) : null;
    }

    void execute() throws Exception
    {
      switch (options.command)
      {
        case "init-exit":
          initExit();
          break;
        case "init":
          options.preset("exit", "false");
          initExit();
          break;
        case "exit":
          exit(dialog("alice"));
          break;
        case "forget":
          result.with("known", openDialogs.remove(options.require("dialog")) != null);
          break;
        case "get-id":
          getId();
          break;
        case "store":
          store();
          break;
        case "fetch":
          fetch();
          break;
        case "process-cards":
          processCards();
          break;
        case "forward":
          forward();
          break;
        case "mediate":
          mediate();
          break;
        case "partial-store":
          partialStore();
          break;
        case "partial-fetch":
          partialFetch();
          break;
        case "serve":
          serve();
          break;
        case "served":
          served();
          break;
        case "unserve":
          unserve();
          break;
        case "parse":
          parse();
          break;
        case "bench":
          bench();
          break;
        default:
          throw new IllegalArgumentException("unknown command " + options.command);
      }
    }

    // ---------------------------------------------------------------------------------------------------------------- dialogs

    /** A dialog handler as the options say; one kept open under the name in the option dialog is used again. */
    private DialogHandler dialog(String defaultClient) throws Exception
    {
      clientName = options.get("client", defaultClient);
      String name = options.get("dialog");
      if (name != null && openDialogs.containsKey(name))
      {
        DialogHandler dialog = openDialogs.get(name);
        ((ProbeTransport.Redirect)dialog.getTransportModule()).target = transport();
        configure(dialog);
        return dialog;
      }
      if (name == null)
      {
        return newDialog(transport());
      }
      DialogHandler dialog = newDialog(new ProbeTransport.Redirect(transport()));
      openDialogs.put(name, dialog);
      return dialog;
    }

    private TransportI transport()
    {
      return new ProbeTransport(log, options.get("http", "buffered"), 1000 * (int)options.number("timeout", 300),
                                options.has("record") ? new File(options.get("record")) : null);
    }

    private DialogHandler newDialog(TransportI transport) throws Exception
    {
      String signer = options.get("signer", clientName);
      Originator client = new Originator(keys.signer(signer, signatureAlgorithm, options.flag("signDefect", false)),
                                         keys.decrypter(clientName));
      if (!client.hasCipherPrivateKey() && !client.hasSignaturePrivateKey())
      {
        throw new IllegalArgumentException("no keys of " + clientName);
      }
      X509Certificate pinned = options.has("pin") ? ProbeKeys.certificate(new File(options.get("pin"))) : null;
      X509Certificate cipher = options.has("intermediaryCert") ? ProbeKeys.certificate(new File(options.get("intermediaryCert")))
        : intermediaryCipher;
      URI uri = options.has("url") ? new URI(options.get("url")) : intermediary;
      Intermed supplier = new Intermed(pinned, cipher, uri);
      DialogHandler dialog = options.flag("lax", false) ? new LaxDialogHandler(client, supplier, transport)
        : new DialogHandler(client, supplier, transport);
      configure(dialog);
      return dialog;
    }

    private void configure(DialogHandler dialog)
    {
      dialog.setCreateSignatures(options.flag("sign", true));
      dialog.setEncryption(options.flag("encrypt", true));
      dialog.setCheckSignatures(options.flag("checkSignatures", true));
      if (options.has("features"))
      {
        dialog.setSendFeatureDescription(options.flag("features", true));
      }
      if (options.has("sym"))
      {
        dialog.setSymmetricCipherAlgorithm(Algorithms.uri(options.get("sym")));
      }
      if (options.has("iv"))
      {
        dialog.setIvLength((int)options.number("iv", 12));
      }
      if (options.has("keyenc"))
      {
        dialog.setAsymmetricCipherAlgorithm(Algorithms.uri(options.get("keyenc")));
      }
      if (options.has("lang"))
      {
        dialog.setLanguageList(options.get("lang"));
      }
    }

    /** Sends InitDialog unless the dialog is already open. */
    private DialogHandler open(DialogHandler dialog) throws Exception
    {
      if (!dialog.isExplicitDialog())
      {
        InitDialog init = new InitDialog(dialog);
        OSCIResponseTo response = exchange("initDialog", init, init::send);
        requireSuccess(response);
      }
      return dialog;
    }

    /** Sends ExitDialog at the end of a command if the option exit (default: not for named dialogs) says so. */
    private void close(DialogHandler dialog) throws Exception
    {
      if (dialog.isExplicitDialog() && options.flag("exit", !options.has("dialog")))
      {
        exit(dialog);
      }
    }

    private void exit(DialogHandler dialog) throws Exception
    {
      ExitDialog exit = new ExitDialog(dialog);
      OSCIResponseTo response = exchange("exitDialog", exit, exit::send);
      if (options.has("dialog"))
      {
        openDialogs.remove(options.get("dialog"));
      }
      if (!result.containsKey("feedback"))
      {
        mainResult(response);
      }
    }

    private boolean explicit(String defaultMode)
    {
      String mode = options.get("mode", defaultMode);
      if (!mode.equals("implicit") && !mode.equals("explicit"))
      {
        throw new IllegalArgumentException("mode must be implicit or explicit");
      }
      return mode.equals("explicit") || options.has("dialog");
    }

    /** Sends one message and records the exchange as a step. */
    private <R extends OSCIResponseTo> R exchange(String name, OSCIRequest request, Sender<R> sender) throws Exception
    {
      DialogHandler dialog = request.getDialogHandler();
      // The library copies the transport encryption of the latest response; we want what the option says.
      dialog.setEncryption(options.flag("encrypt", true));
      if (options.flag("base64", false))
      {
        request.setBase64Encoding(true);
      }
      if (options.has("tamper") && !name.equals("initDialog") && name.equals(options.get("tamperAt", name)))
      {
        tamper(dialog);
      }
      Json step = new Json().with("step", name);
      steps.add(step);
      long start = System.nanoTime();
      try
      {
        R response = sender.send();
        step.putAll(Describe.message(response));
        if (response.getCustomHeaders().length > 0)
        {
          Describe.customHeaders(step, response);
        }
        return response;
      }
      catch (Exception ex)
      {
        step.with("failed", ex.getClass().getSimpleName());
        throw ex;
      }
      finally
      {
        step.with("httpStatus", log.status).with("requestBytes", log.requestBytes).with("responseBytes", log.responseBytes)
            .with("seconds", Math.round((System.nanoTime() - start) / 1e6) / 1e3);
        if (log.announcedBytes != log.requestBytes)
        {
          step.with("announcedBytes", log.announcedBytes);
        }
      }
    }

    /** Spoils the control block of the next message (negative tests). */
    private void tamper(DialogHandler dialog)
    {
      switch (options.get("tamper", ""))
      {
        case "":
          break;
        case "response":
          dialog.getControlblock().setResponse("d3Jvbmc=");
          break;
        case "conversation":
          dialog.getControlblock().setConversationID("1");
          break;
        case "sequence":
          dialog.getControlblock().setSequenceNumber(dialog.getControlblock().getSequenceNumber() + 1);
          break;
        default:
          throw new IllegalArgumentException("tamper must be response, conversation or sequence");
      }
    }

    private void mainResult(OSCIResponseTo response)
    {
      result.with("code", Describe.code(response)).with("feedback", Describe.feedback(response.getFeedbackObjects()));
    }

    private void requireSuccess(OSCIResponseTo response) throws Exception
    {
      String code = Describe.code(response);
      if (code == null || !code.startsWith("0"))
      {
        mainResult(response);
        throw new IllegalStateException("feedback " + code + " of " + response.getClass().getSimpleName());
      }
    }

    // --------------------------------------------------------------------------------------------------------------- commands

    private void initExit() throws Exception
    {
      DialogHandler dialog = dialog("alice");
      InitDialog init = new InitDialog(dialog);
      mainResult(exchange("initDialog", init, init::send));
      close(dialog);
    }

    private void getId() throws Exception
    {
      DialogHandler dialog = dialog("alice");
      if (explicit("implicit"))
      {
        open(dialog);
      }
      result.with("messageId", getMessageId(dialog, true));
      close(dialog);
    }

    private String getMessageId(DialogHandler dialog, boolean main) throws Exception
    {
      GetMessageId request = new GetMessageId(dialog);
      ResponseToGetMessageId response = exchange("getMessageId", request, request::send);
      if (main)
      {
        mainResult(response);
      }
      else
      {
        requireSuccess(response);
      }
      return response.getMessageId();
    }

    /** The message id from the option messageId, otherwise a new one. */
    private String messageId(DialogHandler dialog) throws Exception
    {
      String id = options.get("messageId");
      return id == null ? getMessageId(dialog, false) : id;
    }

    private String addresseeName()
    {
      return options.get("addressee", "bob");
    }

    private Addressee addressee() throws Exception
    {
      return new Addressee((X509Certificate)null, keys.cipherCertificate(addresseeName()));
    }

    private void store() throws Exception
    {
      DialogHandler dialog = dialog("alice");
      if (explicit("implicit"))
      {
        open(dialog);
      }
      String id = messageId(dialog);
      result.with("messageId", id);
      StoreDelivery request = new StoreDelivery(dialog, addressee(), id);
      fill(request);
      ResponseToStoreDelivery response = exchange("storeDelivery", request, request::send);
      mainResult(response);
      result.with("processCard", Describe.processCard(response.getProcessCardBundle()));
      close(dialog);
    }

    /** Subject, content, time stamp wishes and additional headers of a StoreDelivery. */
    private void fill(StoreDelivery request) throws Exception
    {
      if (options.has("subject"))
      {
        request.setSubject(subject());
      }
      request.setQualityOfTimeStampCreation(cryptographic());
      request.setQualityOfTimeStampReception(cryptographic());
      if (options.has("metadata"))
      {
        request.addMessageMetaDataXTA2V3(metadata());
      }
      content(request, new Contents.Target()
      {
        @Override
        public void add(ContentContainer container) throws OSCIException
        {
          request.addContentContainer(container);
        }

        @Override
        public void add(EncryptedDataOSCI encrypted) throws OSCIException
        {
          request.addEncryptedData(encrypted);
        }
      });
    }

    private void content(OSCIRequest request, Contents.Target target) throws Exception
    {
      Contents contents = new Contents(options, keys);
      contents.build(request.getOriginator(), clientName, request.getAddressee(), addresseeName(), target);
      result.with("sent", contents.sent);
      if (!contents.sent.isEmpty())
      {
        result.with("sentSha256", contents.sent.get(0).get("sha256")).with("sentSize", contents.sent.get(0).get("size"));
      }
      for (String header : options.series("header"))
      {
        // Without headerRaw the library adds the OSCI namespaces and canonicalises.
        request.addCustomHeader(header, !options.flag("headerRaw", false));
      }
    }

    /** The library copies the subject into the XML without escaping it. */
    private String subject()
    {
      String subject = options.get("subject");
      return options.flag("subjectRaw", false) ? subject
        : subject.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;");
    }

    private boolean cryptographic()
    {
      return options.get("timestamps", "plain").equals("cryptographic");
    }

    /** The library drops everything up to the first '>', so there must be an XML declaration. */
    private String metadata() throws Exception
    {
      String xml = new String(Files.readAllBytes(Paths.get(options.get("metadata"))), "UTF-8").trim();
      return xml.startsWith("<?xml") ? xml : "<?xml version=\"1.0\" encoding=\"UTF-8\"?>" + xml;
    }

    private File outFolder()
    {
      if (!options.has("out"))
      {
        return null;
      }
      File folder = new File(options.get("out"));
      folder.mkdirs();
      return folder;
    }

    /** The role whose private key opens encrypted content: the option reader, by default the client. */
    private Role readerRole() throws Exception
    {
      String name = options.get("reader", clientName);
      return new Reader(keys.decrypter(name));
    }

    private void select(FetchRequestAbstract request)
    {
      switch (options.get("by", options.has("id") ? "id" : options.has("date") ? "date" : "none"))
      {
        case "none":
          request.setSelectionMode(OSCIMessage.NO_SELECTION_RULE);
          break;
        case "id":
          request.setSelectionMode(OSCIMessage.SELECT_BY_MESSAGE_ID);
          request.setSelectionRule(options.require("id"));
          break;
        case "date":
          request.setSelectionMode(OSCIMessage.SELECT_BY_DATE_OF_RECEPTION);
          request.setSelectionRule(options.require("date"));
          break;
        default:
          throw new IllegalArgumentException("by must be none, id or date");
      }
    }

    private void fetch() throws Exception
    {
      DialogHandler dialog = open(dialog("bob"));
      List<Json> deliveries = new ArrayList<>();
      List<String> seen = new ArrayList<>();
      result.with("deliveries", deliveries);
      long max = options.number("max", Long.MAX_VALUE);
      for (long i = 0; i < max; i++)
      {
        FetchDelivery request = new FetchDelivery(dialog);
        select(request);
        ResponseToFetchDelivery response = exchange("fetchDelivery", request, request::send);
        mainResult(response);
        String code = Describe.code(response);
        if (code == null || !code.startsWith("0") || response.getProcessCardBundle() == null)
        {
          break;
        }
        deliveries.add(delivery(response));
        // A selection by id or date returns the same delivery again and again.
        if (seen.contains(response.getMessageId()) || (request.getSelectionMode() != OSCIMessage.NO_SELECTION_RULE && !options.has("max")))
        {
          break;
        }
        seen.add(response.getMessageId());
      }
      result.with("count", deliveries.size());
      close(dialog);
    }

    private Json delivery(ResponseToFetchAbstract response) throws Exception
    {
      Json delivery = new Json();
      if (response.getProcessCardBundle() != null)
      {
        delivery.with("messageId", response.getMessageId()).with("subject", response.getSubject());
      }
      delivery.with("feedback", Describe.feedback(response.getFeedbackObjects()))
              .with("selectionMode", response.getSelectionMode()).withIfPresent("selectionRule", response.getSelectionRule())
              .with("processCard", Describe.processCard(response.getProcessCardBundle()));
      delivery.putAll(Describe.delivery(response, readerRole(), outFolder()));
      return delivery;
    }

    private void processCards() throws Exception
    {
      DialogHandler dialog = open(dialog("alice"));
      FetchProcessCard request = new FetchProcessCard(dialog);
      switch (options.get("by", options.has("ids") ? "id" : "none"))
      {
        case "none":
          break;
        case "id":
          request.setSelectionMode(OSCIMessage.SELECT_BY_MESSAGE_ID);
          request.setSelectionRule(String.join(";", options.list("ids")));
          break;
        case "date":
          request.setSelectionMode(OSCIMessage.SELECT_BY_DATE_OF_RECEPTION);
          request.setSelectionRule(options.require("date"));
          break;
        case "recent":
          request.setSelectionMode(OSCIMessage.SELECT_BY_RECENT_MODIFICATION);
          request.setSelectionRule(options.require("date"));
          break;
        default:
          throw new IllegalArgumentException("by must be none, id, date or recent");
      }
      switch (options.get("role", "none"))
      {
        case "none":
          break;
        case "originator":
          request.setRoleForSelection(OSCIMessage.SELECT_ORIGINATOR);
          break;
        case "addressee":
          request.setRoleForSelection(OSCIMessage.SELECT_ADDRESSEE);
          break;
        default:
          throw new IllegalArgumentException("role must be originator, addressee or none");
      }
      request.setSelectNoReceptionOnly(options.flag("noReception", false));
      if (options.has("limit"))
      {
        request.setQuantityLimit(options.number("limit", 0));
      }
      ResponseToFetchProcessCard response = exchange("fetchProcessCard", request, request::send);
      mainResult(response);
      List<Json> cards = new ArrayList<>();
      if (response.getProcessCardBundles() != null)
      {
        for (ProcessCardBundle card : response.getProcessCardBundles())
        {
          cards.add(Describe.processCard(card));
        }
      }
      result.with("cards", cards).with("count", cards.size()).with("selectionMode", response.getSelectionMode())
            .withIfPresent("selectionRule", response.getSelectionRule()).with("role", response.getRoleForSelection())
            .with("noReception", response.isSelectNoReception()).with("limit", response.getQuantityLimit());
      close(dialog);
    }

    private void forward() throws Exception
    {
      DialogHandler dialog = dialog("alice");
      if (explicit("implicit"))
      {
        open(dialog);
      }
      String id = messageId(dialog);
      result.with("messageId", id);
      ForwardDelivery request = new ForwardDelivery(dialog, addressee(), options.require("uri"), id);
      if (options.has("subject"))
      {
        request.setSubject(subject());
      }
      request.setQualityOfTimeStampCreation(cryptographic());
      request.setQualityOfTimeStampReception(cryptographic());
      if (options.has("metadata"))
      {
        request.addMessageMetaDataXTA2V3(metadata());
      }
      content(request, new Contents.Target()
      {
        @Override
        public void add(ContentContainer container) throws OSCIException
        {
          request.addContentContainer(container);
        }

        @Override
        public void add(EncryptedDataOSCI encrypted) throws OSCIException
        {
          request.addEncryptedData(encrypted);
        }
      });
      ResponseToForwardDelivery response = exchange("forwardDelivery", request, request::send);
      mainResult(response);
      result.with("processCard", Describe.processCard(response.getProcessCardBundle()));
      close(dialog);
    }

    private void mediate() throws Exception
    {
      DialogHandler dialog = open(dialog("alice"));
      String id = "none".equals(options.get("messageId")) ? null : messageId(dialog);
      result.with("messageId", id);
      MediateDelivery request = new MediateDelivery(dialog, addressee(), options.require("uri"));
      if (id != null)
      {
        request.setMessageId(id);
      }
      if (options.has("subject"))
      {
        request.setSubject(subject());
      }
      request.setQualityOfTimeStampCreation(cryptographic());
      request.setQualityOfTimeStampReception(cryptographic());
      if (options.has("metadata"))
      {
        request.addMessageMetaDataXTA2V3(metadata());
      }
      content(request, new Contents.Target()
      {
        @Override
        public void add(ContentContainer container) throws OSCIException
        {
          request.addContentContainer(container);
        }

        @Override
        public void add(EncryptedDataOSCI encrypted) throws OSCIException
        {
          request.addEncryptedData(encrypted);
        }
      });
      ResponseToMediateDelivery response = exchange("mediateDelivery", request, request::send);
      mainResult(response);
      describeMediate(response);
      close(dialog);
    }

    private void describeMediate(ResponseToMediateDelivery response) throws Exception
    {
      result.with("requestCard", Describe.processCard(response.getProcessCardBundleRequest()))
            .with("replyCard", Describe.processCard(response.getProcessCardBundleReply()));
      // getMessageId() of the library fails without reply card.
      if (response.getProcessCardBundleReply() != null)
      {
        result.with("replyMessageId", response.getMessageId()).with("replySubject", response.getSubject());
      }
      Json reply = new Json();
      reply.with("originator", Describe.role(response.getOriginator())).with("addressee", Describe.role(response.getAddressee()));
      options.preset("replyReader", clientName);
      reply.with("containers", Contents.describe(response.getContentContainer(), response.getEncryptedData(),
                                                 new Reader(keys.decrypter(options.get("replyReader"))), outFolder(), "reply-"));
      Describe.customHeaders(reply, response);
      result.with("reply", reply);
    }

    // -------------------------------------------------------------------------------------------------------- chunked transfer

    private void partialStore() throws Exception
    {
      DialogHandler dialog = dialog("alice");
      if (explicit("explicit"))
      {
        open(dialog);
      }
      String id = options.has("id") ? options.get("id") : getMessageId(dialog, false);
      result.with("messageId", id);
      Addressee addressee = addressee();
      long chunkSize = options.number("chunk", 64);
      int chunkBytes = Math.toIntExact(chunkSize * 1024);

      byte[] inner = null;
      int total = 0;
      if (!options.flag("infoOnly", false))
      {
        inner = innerMessages.get(id);
        if (inner == null)
        {
          inner = innerMessage(id, addressee);
          innerMessages.put(id, inner);
        }
        total = (inner.length + chunkBytes - 1) / chunkBytes;
        result.with("innerSize", inner.length).with("totalChunks", total)
              .with("innerSha256", Crypto.toHex(MessageDigest.getInstance("SHA-256").digest(inner)));
        if (options.has("saveInner"))
        {
          Files.write(Paths.get(options.get("saveInner")), inner);
        }
      }

      List<Json> chunks = new ArrayList<>();
      result.with("chunks", chunks);
      for (int number : chunkNumbers(total))
      {
        ChunkInformation information = new ChunkInformation(chunkSize, number,
                                                            options.number("totalSize", Math.max(1, inner.length / 1024)),
                                                            (int)options.number("total", total));
        PartialStoreDelivery request = new PartialStoreDelivery(dialog, addressee, information, id);
        int from = (number - 1) * chunkBytes;
        byte[] part = from >= inner.length || from < 0 ? new byte[]{1}
          : java.util.Arrays.copyOfRange(inner, from, Math.min(inner.length, from + chunkBytes));
        request.setChunkBlob(new ByteArrayInputStream(part));
        request.setQualityOfTimeStampCreation(cryptographic());
        if (options.has("subject"))
        {
          request.setSubject(subject());
        }
        ResponseToPartialStoreDelivery response = exchange("partialStoreDelivery", request, request::send);
        chunks.add(describePartial(response).with("sentChunk", number).with("sentBytes", part.length));
        mainResult(response);
        if (options.flag("stopOnError", false) && !String.valueOf(Describe.code(response)).startsWith("0"))
        {
          break;
        }
      }
      if (options.flag("info", false) || options.flag("infoOnly", false))
      {
        PartialStoreDelivery request = new PartialStoreDelivery(dialog, addressee, true, id);
        ResponseToPartialStoreDelivery response = exchange("partialStoreInfo", request, request::send);
        Json info = describePartial(response);
        result.with("info", info);
        if (!result.containsKey("feedback"))
        {
          mainResult(response);
        }
      }
      close(dialog);
    }

    /** The complete StoreDelivery that is cut into chunks: neither signed nor transport-encrypted, as the library does it. */
    private byte[] innerMessage(String id, Addressee addressee) throws Exception
    {
      if (options.has("inner"))
      {
        return Files.readAllBytes(Paths.get(options.get("inner")));
      }
      StoreDelivery inner = new StoreDelivery(newDialog(new ProbeTransport.Loopback(new ProbeTransport.Log(), null)), addressee,
                                              options.get("innerId", id));
      fill(inner);
      ByteArrayOutputStream out = new ByteArrayOutputStream();
      inner.writeMessage(out);
      return out.toByteArray();
    }

    /** Numbers of the chunks to send: an explicit list in the option chunks, otherwise by order and from. */
    private List<Integer> chunkNumbers(int total)
    {
      List<Integer> numbers = new ArrayList<>();
      if (total == 0)
      {
        return numbers;
      }
      for (String number : options.list("chunks"))
      {
        numbers.add(Integer.valueOf(number));
      }
      if (!numbers.isEmpty())
      {
        return numbers;
      }
      int first = (int)options.number("from", 1);
      String order = options.get("order", "forward");
      for (int i = first; i <= total; i++)
      {
        numbers.add(i);
      }
      if (order.equals("reverse"))
      {
        java.util.Collections.reverse(numbers);
      }
      else if (order.equals("skip-last"))
      {
        numbers.remove(Integer.valueOf(total));
      }
      else if (!order.equals("forward"))
      {
        throw new IllegalArgumentException("order must be forward, reverse or skip-last");
      }
      return numbers;
    }

    private Json describePartial(ResponseToPartialStoreDelivery response)
    {
      return new Json().with("code", Describe.code(response)).with("feedback", Describe.feedback(response.getFeedbackObjects()))
                       .with("insideFeedback", Describe.feedback(response.getInsideFeedbackObjects()))
                       .with("chunkInformation", Describe.chunk(response.getChunkInformation()))
                       .with("processCard", Describe.processCard(response.getProcessCardBundle()));
    }

    private void partialFetch() throws Exception
    {
      DialogHandler dialog = open(dialog("bob"));
      long chunkSize = options.number("chunk", 64);
      long stop = options.number("stop", Long.MAX_VALUE);
      String id = options.get("id");
      TreeMap<Integer, byte[]> chunks = new TreeMap<>();
      if (id != null && options.flag("resume", false) && receivedChunks.containsKey(id))
      {
        chunks = receivedChunks.get(id);
      }
      List<Json> described = new ArrayList<>();
      result.with("chunks", described);
      int total = 0;
      int number = nextChunk(chunks, Integer.MAX_VALUE);
      List<Integer> wanted = new ArrayList<>();
      for (String item : options.list("chunks"))
      {
        wanted.add(Integer.valueOf(item));
      }
      ResponseToFetchDelivery whole = null;
      for (int count = 0; count < stop; count++)
      {
        if (!wanted.isEmpty())
        {
          if (count >= wanted.size())
          {
            break;
          }
          number = wanted.get(count);
        }
        PartialFetchDelivery request = new PartialFetchDelivery(dialog,
                                                                new ChunkInformation(chunkSize, number, new ArrayList<>(chunks.keySet())));
        if (count == 0 || id == null)
        {
          select(request);
        }
        else
        {
          request.setSelectionMode(OSCIMessage.SELECT_BY_MESSAGE_ID);
          request.setSelectionRule(id);
        }
        ResponseToFetchAbstract response = exchange("partialFetchDelivery", request, request::send);
        mainResult(response);
        Json entry = new Json().with("requestedChunk", number).with("type", response.getClass().getSimpleName())
                               .with("code", Describe.code(response))
                               .with("feedback", Describe.feedback(response.getFeedbackObjects()));
        described.add(entry);
        if (response instanceof ResponseToFetchDelivery)
        {
          // The whole message was smaller than a chunk, or there was none.
          if (response.getProcessCardBundle() != null)
          {
            whole = (ResponseToFetchDelivery)response;
          }
          break;
        }
        ResponseToPartialFetchDelivery partial = (ResponseToPartialFetchDelivery)response;
        entry.with("messageId", partial.getMessageId()).with("chunkInformation", Describe.chunk(partial.getChunkInformation()));
        if (!String.valueOf(Describe.code(response)).startsWith("0"))
        {
          break;
        }
        byte[] data;
        try (InputStream in = partial.getChunkBlob())
        {
          data = in.readAllBytes();
        }
        entry.with("bytes", data.length);
        chunks.put(partial.getChunkInformation().getChunkNumber(), data);
        total = partial.getChunkInformation().getTotalChunkNumbers();
        id = partial.getMessageId();
        receivedChunks.put(id, chunks);
        number = nextChunk(chunks, total);
        if (number == 0 && wanted.isEmpty())
        {
          break;
        }
      }
      result.withIfPresent("messageId", id);
      if (whole == null && total > 0 && nextChunk(chunks, total) == 0)
      {
        ByteArrayOutputStream joined = new ByteArrayOutputStream();
        for (byte[] chunk : chunks.values())
        {
          joined.write(chunk);
        }
        receivedChunks.remove(id);
        result.with("joinedSize", joined.size());
        if (options.has("saveInner"))
        {
          Files.write(Paths.get(options.get("saveInner")), joined.toByteArray());
        }
        whole = ResponseToFetchDelivery.parseResponseToFetchDelivery(new ByteArrayInputStream(joined.toByteArray()));
        result.with("joinedMessage", Describe.message(whole));
      }
      result.with("complete", whole != null);
      if (whole != null)
      {
        result.with("delivery", delivery(whole));
      }
      close(dialog);
    }

    /** Lowest chunk number not yet received; 0 if there is none up to total. */
    private int nextChunk(TreeMap<Integer, byte[]> chunks, int total)
    {
      for (int i = 1; i <= total; i++)
      {
        if (!chunks.containsKey(i))
        {
          return i;
        }
      }
      return 0;
    }

    // -------------------------------------------------------------------------------------------------------- passive recipient

    private void serve() throws Exception
    {
      PassiveServer server = new PassiveServer(options, keys, options.get("client", "bob"), signatureAlgorithm);
      servers.put(server.port(), server);
      result.with("port", server.port()).with("uri", "http://127.0.0.1:" + server.port() + "/");
      // These options are looked at when a ProcessDelivery is answered.
      for (String key : new String[]{"contentSign", "contentSigner", "contentEncrypt", "reader", "content", "size", "seed", "file",
                                     "attachmentEncrypt", "attachmentBase64", "attachmentName", "contentSym", "contentIv"})
      {
        options.has(key);
      }
    }

    private void served()
    {
      List<Json> all = new ArrayList<>();
      int port = (int)options.number("port", 0);
      boolean clear = options.flag("clear", false);
      for (PassiveServer server : servers.values())
      {
        if (port == 0 || port == server.port())
        {
          for (Json entry : server.received(clear))
          {
            all.add(new Json().with("port", server.port()).with("recipient", server.name()).with("request", entry));
          }
        }
      }
      result.with("count", all.size()).with("received", all);
    }

    private void unserve()
    {
      PassiveServer server = servers.remove((int)options.number("port", 0));
      if (server == null)
      {
        throw new IllegalArgumentException("no server on that port");
      }
      server.stop();
    }

    // ------------------------------------------------------------------------------------------------- recorded messages, timing

    /** Parses a recorded response without network; challenge and sequence number are not compared. */
    private OSCIResponseTo replay(byte[] response, ProbeTransport.Log counter) throws Exception
    {
      options.preset("lax", "true");
      DialogHandler dialog = newDialog(new ProbeTransport.Loopback(counter, response));
      // The dummy request is as cheap as possible; an encrypted response to a plain request is accepted.
      dialog.setCreateSignatures(false);
      dialog.setEncryption(false);
      dialog.getControlblock().setConversationID("1");
      dialog.prevChallenge = "AAAA";
      switch (options.get("type", "fetch"))
      {
        case "init":
          return new InitDialog(dialog).send();
        case "exit":
          return new ExitDialog(dialog).send();
        case "id":
          return new GetMessageId(dialog).send();
        case "store":
          return new StoreDelivery(dialog, addressee(), "1").send();
        case "forward":
          return new ForwardDelivery(dialog, addressee(), "http://localhost/", "1").send();
        case "mediate":
          return new MediateDelivery(dialog, addressee(), "http://localhost/").send();
        case "process-cards":
          return new FetchProcessCard(dialog).send();
        case "partial-store":
          return new PartialStoreDelivery(dialog, addressee(), true, "1").send();
        case "partial-fetch":
          return new PartialFetchDelivery(dialog, new ChunkInformation(1, 1)).send();
        case "fetch":
          return new FetchDelivery(dialog).send();
        default:
          throw new IllegalArgumentException("unknown type");
      }
    }

    private void parse() throws Exception
    {
      clientName = options.get("client", "bob");
      OSCIResponseTo response = replay(Files.readAllBytes(Paths.get(options.require("file"))), new ProbeTransport.Log());
      mainResult(response);
      result.with("response", Describe.message(response));
      if (response instanceof ResponseToFetchDelivery)
      {
        result.with("delivery", delivery((ResponseToFetchDelivery)response));
      }
      else if (response instanceof ResponseToMediateDelivery)
      {
        describeMediate((ResponseToMediateDelivery)response);
      }
      else if (response instanceof ResponseToStoreDelivery)
      {
        result.with("processCard", Describe.processCard(((ResponseToStoreDelivery)response).getProcessCardBundle()));
      }
      else if (response instanceof ResponseToForwardDelivery)
      {
        result.with("processCard", Describe.processCard(((ResponseToForwardDelivery)response).getProcessCardBundle()));
      }
      else if (response instanceof ResponseToGetMessageId)
      {
        result.with("messageId", ((ResponseToGetMessageId)response).getMessageId());
      }
      else if (response instanceof ResponseToPartialStoreDelivery)
      {
        result.putAll(describePartial((ResponseToPartialStoreDelivery)response));
      }
      else if (response instanceof ResponseToPartialFetchDelivery)
      {
        ResponseToPartialFetchDelivery partial = (ResponseToPartialFetchDelivery)response;
        result.with("messageId", partial.getMessageId()).with("chunkInformation", Describe.chunk(partial.getChunkInformation()));
      }
      else if (response instanceof ResponseToFetchProcessCard)
      {
        List<Json> cards = new ArrayList<>();
        for (ProcessCardBundle card : ((ResponseToFetchProcessCard)response).getProcessCardBundles())
        {
          cards.add(Describe.processCard(card));
        }
        result.with("cards", cards);
      }
    }

    /** Times the library itself, without network. */
    private void bench() throws Exception
    {
      clientName = options.get("client", options.get("what", "build").equals("parse") ? "bob" : "alice");
      int rounds = (int)options.number("rounds", 10);
      boolean build = options.get("what", "build").equals("build");
      byte[] response = build ? null : Files.readAllBytes(Paths.get(options.require("file")));
      ProbeTransport.Log counter = new ProbeTransport.Log();
      // The first rounds warm up the virtual machine.
      int warmUp = (int)options.number("warmup", Math.max(1, rounds / 5));
      long start = 0;
      for (int i = -warmUp; i < rounds; i++)
      {
        if (i == 0)
        {
          start = System.nanoTime();
        }
        if (build)
        {
          StoreDelivery request = new StoreDelivery(newDialog(new ProbeTransport.Loopback(counter, null)), addressee(), "bench");
          fill(request);
          try
          {
            request.send();
          }
          catch (ProbeTransport.NoResponse expected)
          {
            // Everything has been written.
          }
        }
        else
        {
          OSCIResponseTo parsed = replay(response, counter);
          if (options.flag("content", true) && parsed instanceof ResponseToFetchAbstract)
          {
            delivery((ResponseToFetchAbstract)parsed);
          }
        }
      }
      double seconds = (System.nanoTime() - start) / 1e9;
      long bytes = build ? counter.requestBytes : response.length;
      result.remove("sent");
      result.with("what", build ? "build" : "parse").with("rounds", rounds).with("messageBytes", bytes)
            .with("secondsPerMessage", seconds / rounds).with("megabytesPerSecond", bytes * rounds / seconds / 1e6);
    }
  }
}
