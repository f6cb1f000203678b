// SPDX-License-Identifier: EUPL-1.2

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.SignatureException;
import java.security.cert.X509Certificate;
import java.util.Collections;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

import de.osci.helper.Tools;
import de.osci.osci12.common.Constants;
import de.osci.osci12.common.DialogHandler;
import de.osci.osci12.encryption.Crypto;
import de.osci.osci12.encryption.OSCICipherException;
import de.osci.osci12.extinterfaces.crypto.Decrypter;
import de.osci.osci12.extinterfaces.crypto.Signer;

/** Access to the folder with the test keys: {@code <name>-cipher.p12}, {@code <name>-sign.p12} and certificates of the same names. */
final class ProbeKeys
{
  private final File folder;

  private final char[] password;

  /** Opened key stores by file; opening takes long because of the password-based encryption. */
  private final Map<File, Entry> cache = new ConcurrentHashMap<>();

  ProbeKeys(File folder, String password)
  {
    this.folder = folder;
    this.password = password.toCharArray();
  }

  /** Certificate {@code <name>-<purpose>} from a .crt, .pem, .cer or, failing these, .p12 file; null if there is none. */
  X509Certificate certificate(String name, String purpose) throws IOException, GeneralSecurityException
  {
    for (String suffix : new String[]{".crt", ".pem", ".cer"})
    {
      File file = new File(folder, name + "-" + purpose + suffix);
      if (file.exists())
      {
        return certificate(file);
      }
    }
    Entry entry = load(name, purpose);
    return entry == null ? null : entry.certificate;
  }

  /** Cipher certificate; it is an error if it does not exist. */
  X509Certificate cipherCertificate(String name) throws IOException, GeneralSecurityException
  {
    X509Certificate certificate = certificate(name, "cipher");
    if (certificate == null)
    {
      throw new IllegalArgumentException("no cipher certificate of " + name + " in " + folder);
    }
    return certificate;
  }

  static X509Certificate certificate(File file) throws IOException, GeneralSecurityException
  {
    try (InputStream in = new FileInputStream(file))
    {
      return Tools.createCertificate(in);
    }
  }

  /**
   * Signer with the key {@code <name>-sign}, or null if there is no such key.
   *
   * @param algorithm URI of the wanted algorithm, or null for the default of the key type
   * @param defect true produces wrong signature values (for negative tests)
   */
  Signer signer(String name, String algorithm, boolean defect) throws IOException, GeneralSecurityException
  {
    Entry entry = load(name, "sign");
    return entry == null ? null : new P12Signer(entry, algorithm, defect);
  }

  /** Decrypter with the key {@code <name>-cipher}, or null if there is no such key. */
  Decrypter decrypter(String name) throws IOException, GeneralSecurityException
  {
    Entry entry = load(name, "cipher");
    return entry == null ? null : new P12Decrypter(entry);
  }

  private Entry load(String name, String purpose) throws IOException, GeneralSecurityException
  {
    File file = new File(folder, name + "-" + purpose + ".p12");
    if (!file.exists())
    {
      return null;
    }
    Entry known = cache.get(file);
    if (known != null)
    {
      return known;
    }
    KeyStore store = KeyStore.getInstance("PKCS12");
    try (InputStream in = new FileInputStream(file))
    {
      store.load(in, password);
    }
    for (String alias : Collections.list(store.aliases()))
    {
      if (store.isKeyEntry(alias))
      {
        X509Certificate certificate = Tools.createCertificate(store.getCertificate(alias).getEncoded());
        Entry entry = new Entry((PrivateKey)store.getKey(alias, password), certificate);
        cache.put(file, entry);
        return entry;
      }
    }
    throw new IOException("no private key in " + file);
  }

  private static final class Entry
  {
    final PrivateKey key;

    final X509Certificate certificate;

    Entry(PrivateKey key, X509Certificate certificate)
    {
      this.key = key;
      this.certificate = certificate;
    }
  }

  private static final class P12Signer extends Signer
  {
    private final Entry entry;

    private final String algorithm;

    private final boolean defect;

    P12Signer(Entry entry, String algorithm, boolean defect)
    {
      this.entry = entry;
      this.defect = defect;
      // An EC key cannot be used with an RSA algorithm, so the elliptic curve variant with the same hash length is taken.
      String wanted = algorithm == null ? DialogHandler.getSignatureAlgorithm() : algorithm;
      if (entry.key.getAlgorithm().startsWith("EC") && !wanted.contains("ecdsa"))
      {
        wanted = wanted.contains("512") ? Constants.SIGNATURE_ALGORITHM_ECDSA_SHA512 : Constants.SIGNATURE_ALGORITHM_ECDSA_SHA256;
      }
      this.algorithm = wanted;
    }

    @Override
    public String getVersion()
    {
      return "1";
    }

    @Override
    public String getVendor()
    {
      return "OsciProbe";
    }

    @Override
    public X509Certificate getCertificate()
    {
      return entry.certificate;
    }

    @Override
    public String getAlgorithm()
    {
      return algorithm;
    }

    @Override
    public byte[] sign(byte[] data, String uri) throws SignatureException
    {
      try
      {
        String name = Constants.JCA_JCE_MAP.get(uri);
        if (name == null)
        {
          throw new SignatureException("the library does not know " + uri);
        }
        Signature engine = Signature.getInstance(name, DialogHandler.getSecurityProvider());
        engine.initSign(entry.key);
        engine.update(data);
        byte[] value = engine.sign();
        if (defect)
        {
          value[value.length / 2] ^= 1;
        }
        return value;
      }
      catch (SignatureException ex)
      {
        throw ex;
      }
      catch (GeneralSecurityException ex)
      {
        throw new SignatureException(ex);
      }
    }
  }

  private static final class P12Decrypter extends Decrypter
  {
    private final Entry entry;

    P12Decrypter(Entry entry)
    {
      this.entry = entry;
    }

    @Override
    public String getVersion()
    {
      return "1";
    }

    @Override
    public String getVendor()
    {
      return "OsciProbe";
    }

    @Override
    public X509Certificate getCertificate()
    {
      return entry.certificate;
    }

    @Override
    public byte[] decrypt(byte[] data) throws OSCICipherException
    {
      try
      {
        return Crypto.doRSADecryption(entry.key, data);
      }
      catch (GeneralSecurityException ex)
      {
        throw new OSCICipherException("decryption_error");
      }
    }

    @Override
    public byte[] decrypt(byte[] data, String mgf, String digest) throws OSCICipherException
    {
      try
      {
        return Crypto.doRSADecryption(entry.key, data, Constants.ASYMMETRIC_CIPHER_ALGORITHM_RSA_OAEP, mgf, digest, null);
      }
      catch (GeneralSecurityException ex)
      {
        throw new OSCICipherException("decryption_error");
      }
    }
  }
}
