// SPDX-License-Identifier: EUPL-1.2

import java.util.HashMap;
import java.util.Map;

/** Short names for algorithm URIs. Unknown names are returned unchanged, so a full URI (also an unsupported one) may be given instead. */
final class Algorithms
{
  private static final Map<String, String> URIS = new HashMap<>();

  static
  {
    String xmlenc = "http://www.w3.org/2001/04/xmlenc#";
    String xmlenc11 = "http://www.w3.org/2009/xmlenc11#";
    String more2001 = "http://www.w3.org/2001/04/xmldsig-more#";
    String more2007 = "http://www.w3.org/2007/05/xmldsig-more#";
    for (String bits : new String[]{"128", "192", "256"})
    {
      URIS.put("aes" + bits + "-gcm", xmlenc11 + "aes" + bits + "-gcm");
      URIS.put("aes" + bits + "-cbc", xmlenc + "aes" + bits + "-cbc");
    }
    URIS.put("3des", xmlenc + "tripledes-cbc");
    URIS.put("oaep", xmlenc11 + "rsa-oaep");
    URIS.put("rsa15", xmlenc + "rsa-1_5");
    URIS.put("sha1", "http://www.w3.org/2000/09/xmldsig#sha1");
    URIS.put("sha256", xmlenc + "sha256");
    URIS.put("sha384", more2001 + "sha384");
    URIS.put("sha512", xmlenc + "sha512");
    for (String bits : new String[]{"256", "384", "512"})
    {
      URIS.put("sha3-" + bits, more2007 + "sha3-" + bits);
      URIS.put("rsa-sha" + bits, more2001 + "rsa-sha" + bits);
      URIS.put("ecdsa-sha" + bits, more2001 + "ecdsa-sha" + bits);
      URIS.put("pss-sha" + bits, more2007 + "sha" + bits + "-rsa-MGF1");
      URIS.put("pss-sha3-" + bits, more2007 + "sha3-" + bits + "-rsa-MGF1");
    }
    URIS.put("rsa-sha1", "http://www.w3.org/2000/09/xmldsig#rsa-sha1");
  }

  private Algorithms()
  {}

  static String uri(String name)
  {
    return URIS.getOrDefault(name, name);
  }
}
