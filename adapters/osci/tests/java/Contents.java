// SPDX-License-Identifier: EUPL-1.2

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.security.DigestInputStream;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

import de.osci.osci12.OSCIException;
import de.osci.osci12.common.Constants;
import de.osci.osci12.common.DialogHandler;
import de.osci.osci12.encryption.Crypto;
import de.osci.osci12.extinterfaces.crypto.Decrypter;
import de.osci.osci12.extinterfaces.crypto.Signer;
import de.osci.osci12.messageparts.Attachment;
import de.osci.osci12.messageparts.Content;
import de.osci.osci12.messageparts.ContentContainer;
import de.osci.osci12.messageparts.EncryptedDataOSCI;
import de.osci.osci12.messageparts.OSCISignature;
import de.osci.osci12.roles.Addressee;
import de.osci.osci12.roles.Author;
import de.osci.osci12.roles.Originator;
import de.osci.osci12.roles.Reader;
import de.osci.osci12.roles.Role;

/** Builds the content of a delivery as the options say, and describes the content of a received one. */
final class Contents
{
  /** Receives what was built; the message types of the library have no common interface for that. */
  interface Target
  {
    void add(ContentContainer container) throws OSCIException;

    void add(EncryptedDataOSCI encrypted) throws OSCIException;
  }

  private final Options options;

  private final ProbeKeys keys;

  /** Description of the payload(s) that were built. */
  final List<Json> sent = new ArrayList<>();

  Contents(Options options, ProbeKeys keys)
  {
    this.options = options;
    this.keys = keys;
  }

  /**
   * Builds one container (or none with content=none) and hands it to the target.
   *
   * @param originator sender of the delivery, used for signing if contentSigner names it
   * @param originatorName name of the sender's keys
   * @param addressee recipient, used for encryption if reader names it
   * @param addresseeName name of the recipient's keys
   */
  void build(Originator originator, String originatorName, Addressee addressee, String addresseeName, Target target) throws Exception
  {
    String kind = options.get("content", "inline");
    if (kind.equals("none"))
    {
      return;
    }
    boolean encrypt = options.flag("contentEncrypt", false);
    boolean sign = options.flag("contentSign", false);
    // The library refuses clear attachments in an encrypted container.
    boolean encryptAttachment = options.flag("attachmentEncrypt", encrypt);
    String algorithm = Algorithms.uri(options.get("contentSym", "aes256-gcm"));
    int ivLength = (int)options.number("contentIv", 12);

    List<Role> signers = new ArrayList<>();
    if (sign)
    {
      options.preset("contentSigner", originatorName);
      String signatureAlgorithm = options.get("contentSigalg");
      for (String name : options.list("contentSigner"))
      {
        if (name.equals(originatorName) && signatureAlgorithm == null)
        {
          signers.add(originator);
        }
        else
        {
          Signer signer = keys.signer(name, signatureAlgorithm == null ? null : Algorithms.uri(signatureAlgorithm),
                                      options.flag("contentSignDefect", false));
          if (signer == null)
          {
            throw new IllegalArgumentException("no signature key of " + name);
          }
          signers.add(new Author(signer, (Decrypter)null));
        }
      }
    }

    ContentContainer container = new ContentContainer();
    boolean attachments = kind.equals("attachment");
    int count = (int)options.number("count", 1);
    for (int i = 0; i < count; i++)
    {
      DigestInputStream data = new DigestInputStream(payload(i), MessageDigest.getInstance("SHA-256"));
      Json entry = new Json();
      if (attachments)
      {
        String name = options.get("attachmentName", "payload.bin");
        if (i > 0)
        {
          name = (i + 1) + "-" + name;
        }
        Attachment attachment;
        if (encryptAttachment)
        {
          attachment = new Attachment(data, name, Crypto.createSymKey(algorithm), algorithm, ivLength);
        }
        else
        {
          attachment = new Attachment(data, name);
        }
        attachment.setBase64Encoding(options.flag("attachmentBase64", false));
        if (options.has("attachmentType"))
        {
          attachment.setContentType(options.get("attachmentType"));
        }
        container.addContent(new Content(attachment));
        entry.with("kind", "attachment").with("refId", name);
      }
      else if (kind.equals("inline"))
      {
        Content content = new Content(data);
        container.addContent(content);
        entry.with("kind", "inline").with("id", content.getRefID());
      }
      else
      {
        throw new IllegalArgumentException("content must be inline, attachment or none");
      }
      sent.add(entry.with("size", lastPayloadSize).with("sha256", Crypto.toHex(data.getMessageDigest().digest())));
    }
    if (options.flag("twoContents", false))
    {
      byte[] text = "second content".getBytes("UTF-8");
      Content content = new Content(new ByteArrayInputStream(text));
      container.addContent(content);
      sent.add(new Json().with("kind", "inline").with("id", content.getRefID()).with("size", text.length)
                         .with("sha256", Crypto.toHex(MessageDigest.getInstance("SHA-256").digest(text))));
    }
    if (options.flag("nested", false))
    {
      if (options.flag("nestedSign", sign))
      {
        sign(container, signers);
      }
      ContentContainer outer = new ContentContainer();
      outer.addContent(new Content(container));
      container = outer;
    }
    sign(container, signers);

    if (!encrypt)
    {
      target.add(container);
      return;
    }
    options.preset("reader", addresseeName);
    String keyEncryption = Algorithms.uri(options.get("contentKeyenc", "oaep"));
    EncryptedDataOSCI encrypted = new EncryptedDataOSCI(algorithm, ivLength, container);
    for (String name : options.list("reader"))
    {
      Role reader;
      if (name.equals(addresseeName))
      {
        reader = addressee;
      }
      else if (name.equals(originatorName))
      {
        reader = originator;
      }
      else
      {
        reader = new Reader(keys.cipherCertificate(name));
      }
      encrypted.encrypt(reader, keyEncryption);
    }
    target.add(encrypted);
  }

  @SuppressWarnings("deprecation") // signing times are deprecated in the library but still occur
  private void sign(ContentContainer container, List<Role> signers) throws Exception
  {
    String digest = options.has("contentDigest") ? Algorithms.uri(options.get("contentDigest")) : DialogHandler.getDigestAlgorithm();
    for (Role signer : signers)
    {
      if (options.has("signingTime"))
      {
        container.sign(signer, digest, options.get("signingTime"));
      }
      else
      {
        container.sign(signer, digest);
      }
    }
  }

  private long lastPayloadSize;

  private InputStream payload(int index) throws IOException
  {
    if (options.has("file"))
    {
      File file = new File(options.get("file"));
      lastPayloadSize = file.length();
      return new FileInputStream(file);
    }
    if (options.has("text"))
    {
      byte[] text = options.get("text").getBytes("UTF-8");
      lastPayloadSize = text.length;
      return new ByteArrayInputStream(text);
    }
    lastPayloadSize = options.number("size", 200);
    return new PseudoRandom(options.number("seed", 1) + index, lastPayloadSize);
  }

  /** Reproducible bytes without holding them in memory. */
  private static final class PseudoRandom extends InputStream
  {
    private final Random random;

    private final byte[] block = new byte[8192];

    private int position = block.length;

    private long remaining;

    PseudoRandom(long seed, long size)
    {
      random = new Random(seed);
      remaining = size;
    }

    @Override
    public int read()
    {
      byte[] one = new byte[1];
      return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
    }

    @Override
    public int read(byte[] data, int offset, int count)
    {
      if (remaining == 0)
      {
        return -1;
      }
      if (position == block.length)
      {
        random.nextBytes(block);
        position = 0;
      }
      int part = (int)Math.min(Math.min(count, remaining), block.length - position);
      System.arraycopy(block, position, data, offset, part);
      position += part;
      remaining -= part;
      return part;
    }
  }

  /**
   * Describes containers and encrypted data of a message.
   *
   * @param reader role with the private key for encrypted data, may be null
   * @param folder where to write the contents, or null
   * @param prefix beginning of the file names
   */
  static List<Json> describe(ContentContainer[] containers, EncryptedDataOSCI[] encrypted, Role reader, File folder, String prefix)
  {
    List<Json> result = new ArrayList<>();
    if (encrypted != null)
    {
      for (EncryptedDataOSCI data : encrypted)
      {
        result.add(describeEncrypted(data, reader, folder, prefix));
      }
    }
    if (containers != null)
    {
      for (ContentContainer container : containers)
      {
        result.add(describeContainer(container, reader, folder, prefix).with("encrypted", false));
      }
    }
    return result;
  }

  private static Json describeEncrypted(EncryptedDataOSCI data, Role reader, File folder, String prefix)
  {
    List<String> readers = new ArrayList<>();
    for (Role role : data.getReaders())
    {
      readers.add(Describe.cipherSubject(role));
    }
    Json result = new Json().with("id", data.getRefID()).with("encrypted", true).with("algorithm", data.getSymEncryptionMethod())
                            .with("readers", readers);
    if (reader == null)
    {
      return result.with("decrypted", false);
    }
    try
    {
      result.with("keyEncryption", data.getAsymEncryptionAlgorithm(reader));
      ContentContainer container = data.decrypt(reader);
      result.with("decrypted", true).with("container", describeContainer(container, reader, folder, prefix));
    }
    catch (Exception ex)
    {
      result.with("decrypted", false).with("error", ex.toString());
    }
    return result;
  }

  private static Json describeContainer(ContentContainer container, Role reader, File folder, String prefix)
  {
    Json result = new Json().with("id", container.getRefID());
    List<Json> signatures = new ArrayList<>();
    for (OSCISignature signature : container.getSignatures())
    {
      signatures.add(new Json().with("signer", Describe.signatureSubject(signature.getSigner()))
                               .with("algorithm", signature.signatureAlgorithm)
                               .with("digests", new java.util.TreeSet<>(signature.getDigestMethods().values()))
                               .with("references", signature.getReferences().size())
                               .withIfPresent("signingTime", signature.getSigningTime()));
    }
    result.with("signatures", signatures);
    if (signatures.isEmpty())
    {
      result.with("signaturesValid", null);
    }
    else
    {
      try
      {
        result.with("signaturesValid", container.checkAllSignatures());
      }
      catch (Exception ex)
      {
        result.with("signaturesValid", false).with("signatureError", ex.toString());
      }
    }

    List<Json> contents = new ArrayList<>();
    for (Content content : container.getContents())
    {
      contents.add(describeContent(content, reader, folder, prefix));
    }
    result.with("contents", contents);
    EncryptedDataOSCI[] inner = container.getEncryptedData();
    if (inner.length > 0)
    {
      result.with("encryptedData", describe(null, inner, reader, folder, prefix));
    }
    return result;
  }

  private static Json describeContent(Content content, Role reader, File folder, String prefix)
  {
    Json result = new Json();
    try
    {
      switch (content.getContentType())
      {
        case Content.DATA:
          result.with("kind", "inline").with("id", content.getRefID());
          digest(result, content.getContentStream(), folder, prefix + content.getRefID());
          if (content.getTransformerForSignature() != null)
          {
            result.with("transforms", content.getTransformerForSignature());
          }
          break;
        case Content.ATTACHMENT_REFERENCE:
          Attachment attachment = content.getAttachment();
          result.with("kind", "attachment").with("id", content.getRefID()).with("refId", attachment.getRefID())
                .with("contentType", attachment.getContentType()).with("encrypted", attachment.isEncrypted());
          if (attachment.isEncrypted())
          {
            result.with("algorithm", attachment.getSymmetricCipherAlgorithm());
          }
          Map<String, String> headers = new LinkedHashMap<>();
          if (attachment.getMimeHeaders() != null)
          {
            headers.putAll(attachment.getMimeHeaders());
          }
          result.with("mimeHeaders", headers);
          digest(result, attachment.getStream(), folder, prefix + attachment.getRefID());
          break;
        case Content.CONTENT_CONTAINER:
          result.with("kind", "container").with("id", content.getRefID())
                .with("container", describeContainer(content.getContentContainer(), reader, folder, prefix));
          break;
        default:
          result.with("kind", "unknown " + content.getContentType());
      }
    }
    catch (Exception ex)
    {
      result.with("error", ex.toString());
    }
    return result;
  }

  /** Reads the stream to its end, adds size and SHA-256 and optionally writes a file. */
  private static void digest(Json result, InputStream in, File folder, String name) throws IOException, GeneralSecurityException
  {
    MessageDigest digest = MessageDigest.getInstance("SHA-256");
    long size = 0;
    if (in == null)
    {
      result.with("error", "no data");
      return;
    }
    File file = folder == null ? null : new File(folder, name.replaceAll("[^A-Za-z0-9._-]", "_"));
    try (OutputStream out = file == null ? OutputStream.nullOutputStream() : new FileOutputStream(file); InputStream data = in)
    {
      byte[] block = new byte[Constants.DEFAULT_BUFFER_BLOCKSIZE];
      int count;
      while ((count = data.read(block)) > -1)
      {
        digest.update(block, 0, count);
        out.write(block, 0, count);
        size += count;
      }
    }
    result.with("size", size).with("sha256", Crypto.toHex(digest.digest()));
    if (file != null)
    {
      result.with("file", file.getPath());
    }
  }
}
