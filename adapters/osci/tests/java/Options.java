// SPDX-License-Identifier: EUPL-1.2

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * One command line: a command name and key=value options. Words may be quoted as in a shell ('…' literally, "…" with backslash escapes).
 * A value of the form @path stands for the content of that file (UTF-8).
 */
final class Options
{
  final String command;

  private final Map<String, String> values = new LinkedHashMap<>();

  private final Set<String> used = new LinkedHashSet<>();

  Options(String line) throws IOException
  {
    List<String> words = split(line);
    command = words.get(0);
    for (String word : words.subList(1, words.size()))
    {
      int equals = word.indexOf('=');
      if (equals < 1)
      {
        throw new IllegalArgumentException("not of the form key=value: " + word);
      }
      String value = word.substring(equals + 1);
      if (value.startsWith("@"))
      {
        value = new String(Files.readAllBytes(Paths.get(value.substring(1))), "UTF-8");
      }
      values.put(word.substring(0, equals), value);
    }
  }

  private static List<String> split(String line)
  {
    List<String> words = new ArrayList<>();
    StringBuilder word = new StringBuilder();
    boolean inWord = false;
    char quote = 0;
    for (int i = 0; i < line.length(); i++)
    {
      char c = line.charAt(i);
      if (quote != 0)
      {
        if (c == quote)
        {
          quote = 0;
        }
        else if (quote == '"' && c == '\\' && i + 1 < line.length())
        {
          word.append(line.charAt(++i));
        }
        else
        {
          word.append(c);
        }
      }
      else if (c == '"' || c == '\'')
      {
        quote = c;
        inWord = true;
      }
      else if (Character.isWhitespace(c))
      {
        if (inWord)
        {
          words.add(word.toString());
          word.setLength(0);
          inWord = false;
        }
      }
      else
      {
        word.append(c);
        inWord = true;
      }
    }
    if (quote != 0)
    {
      throw new IllegalArgumentException("unterminated quote");
    }
    if (inWord)
    {
      words.add(word.toString());
    }
    return words;
  }

  /** Sets a default that the user did not give. */
  void preset(String key, String value)
  {
    values.putIfAbsent(key, value);
    used.add(key);
  }

  boolean has(String key)
  {
    used.add(key);
    return values.containsKey(key);
  }

  String get(String key)
  {
    used.add(key);
    return values.get(key);
  }

  String get(String key, String fallback)
  {
    String value = get(key);
    return value == null ? fallback : value;
  }

  String require(String key)
  {
    String value = get(key);
    if (value == null)
    {
      throw new IllegalArgumentException("option " + key + " is missing");
    }
    return value;
  }

  boolean flag(String key, boolean fallback)
  {
    String value = get(key);
    if (value == null)
    {
      return fallback;
    }
    if (!value.equals("true") && !value.equals("false"))
    {
      throw new IllegalArgumentException("option " + key + " must be true or false");
    }
    return value.equals("true");
  }

  /** A number with optional suffix k or m (1024, 1024²). */
  long number(String key, long fallback)
  {
    String value = get(key);
    if (value == null)
    {
      return fallback;
    }
    long factor = 1;
    String lower = value.toLowerCase(java.util.Locale.ROOT);
    if (lower.endsWith("k"))
    {
      factor = 1024;
    }
    else if (lower.endsWith("m"))
    {
      factor = 1024 * 1024;
    }
    return factor * Long.parseLong(factor == 1 ? value : value.substring(0, value.length() - 1));
  }

  /** A comma-separated list; empty if the option is absent. */
  List<String> list(String key)
  {
    List<String> result = new ArrayList<>();
    String value = get(key);
    if (value != null)
    {
      for (String item : value.split(","))
      {
        if (!item.isEmpty())
        {
          result.add(item);
        }
      }
    }
    return result;
  }

  /** Values of key, key2, key3 … as far as given. */
  List<String> series(String key)
  {
    List<String> result = new ArrayList<>();
    for (int i = 1; has(i == 1 ? key : key + i); i++)
    {
      result.add(get(i == 1 ? key : key + i));
    }
    return result;
  }

  /** Keys that no code has looked at – most likely a typing error. */
  List<String> unused()
  {
    List<String> result = new ArrayList<>(values.keySet());
    result.removeAll(used);
    return result;
  }
}
