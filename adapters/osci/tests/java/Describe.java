// SPDX-License-Identifier: EUPL-1.2

import java.io.File;
import java.io.StringReader;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;

import javax.xml.parsers.DocumentBuilderFactory;

import org.w3c.dom.Element;
import org.xml.sax.InputSource;

import de.osci.osci12.OSCIException;
import de.osci.osci12.common.DialogHandler;
import de.osci.osci12.messageparts.ChunkInformation;
import de.osci.osci12.messageparts.FeedbackObject;
import de.osci.osci12.messageparts.Inspection;
import de.osci.osci12.messageparts.ProcessCardBundle;
import de.osci.osci12.messageparts.Timestamp;
import de.osci.osci12.messagetypes.ContentPackageI;
import de.osci.osci12.messagetypes.OSCIMessage;
import de.osci.osci12.messagetypes.OSCIResponseTo;
import de.osci.osci12.roles.Role;
import de.osci.osci12.soapheader.FeatureDescriptionH;

/** Turns objects of the library into JSON. */
final class Describe
{
  private Describe()
  {}

  static String cipherSubject(Role role)
  {
    try
    {
      return role == null || !role.hasCipherCertificate() ? null : role.getCipherCertificate().getSubjectX500Principal().getName();
    }
    catch (OSCIException ex)
    {
      return null;
    }
  }

  static String signatureSubject(Role role)
  {
    try
    {
      return role == null || !role.hasSignatureCertificate() ? null
        : role.getSignatureCertificate().getSubjectX500Principal().getName();
    }
    catch (OSCIException ex)
    {
      return null;
    }
  }

  static Json role(Role role)
  {
    return role == null ? null : new Json().with("cipher", cipherSubject(role)).with("signature", signatureSubject(role));
  }

  static List<Json> feedback(FeedbackObject[] entries)
  {
    List<Json> result = new ArrayList<>();
    if (entries != null)
    {
      for (FeedbackObject entry : entries)
      {
        result.add(new Json().with("code", entry.getCode()).with("text", entry.getText()).with("lang", entry.getLanguage()));
      }
    }
    return result;
  }

  /** First feedback code, the main result of a request; null if there is no feedback. */
  static String code(OSCIResponseTo response)
  {
    FeedbackObject[] entries = response.getFeedbackObjects();
    return entries == null || entries.length == 0 ? null : entries[0].getCode();
  }

  static Object timestamp(Timestamp stamp)
  {
    if (stamp == null)
    {
      return null;
    }
    if (stamp.getAlgorithm() == null || stamp.getAlgorithm().isEmpty())
    {
      return stamp.getTimeStamp();
    }
    return new Json().with("algorithm", stamp.getAlgorithm()).with("value", stamp.getTimeStamp());
  }

  static Json processCard(ProcessCardBundle card)
  {
    if (card == null)
    {
      return null;
    }
    List<Json> inspections = new ArrayList<>();
    if (card.getInspections() != null)
    {
      for (Inspection inspection : card.getInspections())
      {
        Json entry = new Json().with("subject", inspection.getX509SubjectName()).with("issuer", inspection.getX509IssuerName())
                               .with("serial", inspection.getX509SerialNumber()).with("type", inspection.getCertType())
                               .with("math", inspection.getMathResult()).with("offline", inspection.getOfflineResult())
                               .with("time", timestamp(inspection.getTimeStamp()));
        if (inspection.isOnlineChecked())
        {
          entry.with("online", inspection.getOnlineResult()).with("onlineChecks", inspection.getOnlineCheckNames());
        }
        inspections.add(entry);
      }
    }
    return new Json().with("messageId", card.getMessageId()).with("recentModification", card.getRecentModification())
                     .with("creation", timestamp(card.getCreation())).with("forwarding", timestamp(card.getForwarding()))
                     .with("reception", timestamp(card.getReception())).with("subject", card.getSubject())
                     .with("inspections", inspections);
  }

  static Json chunk(ChunkInformation chunk)
  {
    return chunk == null ? null
      : new Json().with("chunkNumber", chunk.getChunkNumber()).with("totalChunkNumbers", chunk.getTotalChunkNumbers())
                  .with("chunkSize", chunk.getChunkSize()).with("totalMessageSize", chunk.getTotalMessageSize())
                  .with("receivedChunks", chunk.getReceivedChunks());
  }

  private static Json features(FeatureDescriptionH features)
  {
    if (features == null)
    {
      return null;
    }
    List<String> names = new ArrayList<>();
    for (Object feature : features.getSupportedFeatures())
    {
      names.add(feature.toString());
    }
    return new Json().with("features", names).with("maxMessageSize", features.getMaxMessageSize())
                     .with("maxChunkSize", features.getMaxChunkSize()).with("minChunkSize", features.getMinChunkSize())
                     .with("chunkMessageTimeout", features.getChunkMessageTimeout());
  }

  /** Facts about any received message that concern the order level. */
  static Json message(OSCIMessage message)
  {
    Json result = new Json().with("type", message.getClass().getSimpleName());
    DialogHandler dialog = message.getDialogHandler();
    if (message instanceof OSCIResponseTo)
    {
      result.with("feedback", feedback(((OSCIResponseTo)message).getFeedbackObjects()));
    }
    result.with("signed", message.isSigned());
    if (message.isSigned())
    {
      boolean push = !(message instanceof OSCIResponseTo);
      result.with("signatureAlgorithm", message.signatureHeader.signatureAlgorithm)
            .with("digests", new TreeSet<>(message.signatureHeader.getDigestMethods().values()))
            .with("signer", signatureSubject(push ? dialog.getClient() : dialog.getSupplier()));
    }
    if (dialog != null)
    {
      result.with("encrypted", dialog.isEncryption());
      if (dialog.isEncryption())
      {
        result.with("sym", dialog.getSymmetricCipherAlgorithm()).with("keyenc", dialog.getAsymmetricCipherAlgorithm());
      }
      result.with("conversationId", dialog.getControlblock().getConversationID())
            .with("sequence", dialog.getControlblock().getSequenceNumber());
    }
    result.withIfPresent("featureDescription", features(message.getFeatureDescription()));
    return result;
  }

  /** Content, roles and custom headers of a message that carries a delivery. */
  static Json delivery(OSCIMessage message, Role reader, File folder)
  {
    ContentPackageI content = (ContentPackageI)message;
    Json result = new Json();
    result.with("originator", role(message.getOriginator())).with("addressee", role(message.getAddressee()));
    List<Json> authors = new ArrayList<>();
    for (Role role : message.getOtherAuthors())
    {
      authors.add(role(role));
    }
    List<Json> readers = new ArrayList<>();
    for (Role role : message.getOtherReaders())
    {
      readers.add(role(role));
    }
    result.with("otherAuthors", authors).with("otherReaders", readers);
    String id = content.getMessageId() == null ? "none" : content.getMessageId();
    result.with("containers", Contents.describe(content.getContentContainer(), content.getEncryptedData(), reader, folder, id + "-"));
    result.with("attachments", new TreeSet<>(message.attachments.keySet()));
    customHeaders(result, message);
    return result;
  }

  static void customHeaders(Json result, OSCIMessage message)
  {
    List<Json> headers = new ArrayList<>();
    for (String xml : message.getCustomHeaders())
    {
      Json header = new Json();
      try
      {
        DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
        factory.setNamespaceAware(true);
        factory.setFeature("http://apache.org/xml/features/disallow-doctype-decl", true);
        Element root = factory.newDocumentBuilder().parse(new InputSource(new StringReader(xml))).getDocumentElement();
        header.with("name", "{" + root.getNamespaceURI() + "}" + root.getLocalName()).with("id", root.getAttribute("Id"));
        if ("MessageMetaData".equals(root.getLocalName()))
        {
          result.with("messageMetaData", xml)
                .with("messageMetaDataParsed", ((ContentPackageI)message).getMessageMetaDataXTA2V3() != null);
        }
      }
      catch (Exception ex)
      {
        header.with("error", ex.toString());
      }
      headers.add(header.with("xml", xml));
    }
    result.with("customHeaders", headers);
  }

  /** Adds what is known about an exception. */
  static Json exception(Json result, Throwable error)
  {
    result.with("ok", false).with("exception", error.getClass().getName()).with("message", error.getMessage());
    if (error instanceof OSCIException)
    {
      OSCIException osci = (OSCIException)error;
      String code = osci.getErrorCode();
      // Only four digits are an OSCI code; the library also stores the keys of its message texts here.
      boolean real = code != null && code.matches("\\d{4}");
      result.with("code", real ? code : null);
      if (!real)
      {
        result.with("errorKey", code);
      }
      result.with("localizedMessage", osci.getLocalizedMessage());
      if (osci instanceof de.osci.osci12.common.OSCIErrorException)
      {
        OSCIMessage message = ((de.osci.osci12.common.OSCIErrorException)osci).getOSCIMessage();
        if (message != null)
        {
          result.with("offendingMessage", message(message));
        }
      }
    }
    Throwable cause = error.getCause();
    if (cause != null && cause != error)
    {
      result.with("cause", cause.toString());
    }
    StackTraceElement[] stack = error.getStackTrace();
    if (stack.length > 0)
    {
      result.with("at", stack[0].toString());
    }
    return result;
  }
}
