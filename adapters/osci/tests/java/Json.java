// SPDX-License-Identifier: EUPL-1.2

import java.util.LinkedHashMap;
import java.util.Map;

/** Minimal JSON output: an ordered object whose values are strings, numbers, booleans, null, lists, arrays or further objects. */
final class Json extends LinkedHashMap<String, Object>
{
  private static final long serialVersionUID = 1L;

  /** Adds a member and returns this object, so that calls can be chained. */
  Json with(String key, Object value)
  {
    put(key, value);
    return this;
  }

  /** Adds a member unless its value is null. */
  Json withIfPresent(String key, Object value)
  {
    if (value != null)
    {
      put(key, value);
    }
    return this;
  }

  @Override
  public String toString()
  {
    StringBuilder out = new StringBuilder();
    write(out, this);
    return out.toString();
  }

  private static void write(StringBuilder out, Object value)
  {
    if (value == null)
    {
      out.append("null");
    }
    else if (value instanceof Map)
    {
      out.append('{');
      String separator = "";
      for (Map.Entry<?, ?> entry : ((Map<?, ?>)value).entrySet())
      {
        out.append(separator);
        writeString(out, String.valueOf(entry.getKey()));
        out.append(':');
        write(out, entry.getValue());
        separator = ",";
      }
      out.append('}');
    }
    else if (value instanceof Iterable)
    {
      out.append('[');
      String separator = "";
      for (Object item : (Iterable<?>)value)
      {
        out.append(separator);
        write(out, item);
        separator = ",";
      }
      out.append(']');
    }
    else if (value instanceof Object[])
    {
      write(out, java.util.Arrays.asList((Object[])value));
    }
    else if (value instanceof Boolean || value instanceof Number)
    {
      out.append(value);
    }
    else
    {
      writeString(out, value.toString());
    }
  }

  private static void writeString(StringBuilder out, String text)
  {
    out.append('"');
    for (int i = 0; i < text.length(); i++)
    {
      char c = text.charAt(i);
      if (c == '"' || c == '\\')
      {
        out.append('\\').append(c);
      }
      else if (c < 0x20 || c == 0x7f || c == 0x2028 || c == 0x2029)
      {
        out.append(String.format("\\u%04x", (int)c));
      }
      else
      {
        out.append(c);
      }
    }
    out.append('"');
  }
}
