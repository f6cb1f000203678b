// SPDX-License-Identifier: EUPL-1.2

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.FileOutputStream;
import java.io.FilterInputStream;
import java.io.FilterOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URI;

import de.osci.osci12.extinterfaces.TransportI;

/**
 * Plain HTTP POST for the library. The library calls {@link #newInstance()} for every message; all instances share one {@link Log}, where
 * status, sizes and times of the latest exchange can be read.
 */
class ProbeTransport implements TransportI
{
  /** What is known about the exchanges of one command. */
  static final class Log
  {
    /** Number of requests begun. */
    int requests;

    /** Status of the latest response, 0 if there was none. */
    int status;

    long requestBytes;

    long responseBytes;

    /** Length that the library announced, for comparison with requestBytes. */
    long announcedBytes;

    long started;

    /** Beginning of the body of a response with an HTTP error status. */
    String errorBody;
  }

  private final Log log;

  /** fixed (Content-Length from the library), chunked or buffered (Content-Length of what was really written). */
  private final String mode;

  private final int timeoutMillis;

  /** Folder for copies of all bodies, or null. */
  private final File record;

  private HttpURLConnection connection;

  private File responseCopy;

  ProbeTransport(Log log, String mode, int timeoutMillis, File record)
  {
    this.log = log;
    this.mode = mode;
    this.timeoutMillis = timeoutMillis;
    this.record = record;
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
  public TransportI newInstance()
  {
    return new ProbeTransport(log, mode, timeoutMillis, record);
  }

  @Override
  public boolean isOnline(URI uri)
  {
    return true;
  }

  @Override
  public long getContentLength()
  {
    return log.responseBytes;
  }

  @Override
  public OutputStream getConnection(URI uri, long length) throws IOException
  {
    log.requests++;
    log.status = 0;
    log.requestBytes = 0;
    log.responseBytes = 0;
    log.announcedBytes = length;
    log.errorBody = null;
    log.started = System.nanoTime();
    connection = (HttpURLConnection)uri.toURL().openConnection();
    connection.setRequestMethod("POST");
    connection.setInstanceFollowRedirects(false);
    connection.setUseCaches(false);
    connection.setDoOutput(true);
    connection.setConnectTimeout(10_000);
    connection.setReadTimeout(timeoutMillis);
    connection.setRequestProperty("Content-Type", "text/xml");
    connection.setRequestProperty("charset", "utf-8");
    if (mode.equals("fixed"))
    {
      connection.setFixedLengthStreamingMode(length);
    }
    else if (mode.equals("chunked"))
    {
      connection.setChunkedStreamingMode(0);
    }
    OutputStream out = connection.getOutputStream();
    final OutputStream copy = openCopies();
    return new FilterOutputStream(out)
    {
      private boolean closed;

      @Override
      public void write(int b) throws IOException
      {
        write(new byte[]{(byte)b}, 0, 1);
      }

      @Override
      public void write(byte[] data, int offset, int count) throws IOException
      {
        if (copy != null)
        {
          copy.write(data, offset, count);
        }
        log.requestBytes += count;
        out.write(data, offset, count);
      }

      @Override
      public void close() throws IOException
      {
        if (!closed)
        {
          closed = true;
          if (copy != null)
          {
            copy.close();
          }
          super.close();
        }
      }
    };
  }

  private OutputStream openCopies() throws IOException
  {
    if (record == null)
    {
      return null;
    }
    if (!record.isDirectory() && !record.mkdirs())
    {
      throw new IOException("cannot create " + record);
    }
    int number = 1;
    while (new File(record, String.format("%03d-request.bin", number)).exists())
    {
      number++;
    }
    responseCopy = new File(record, String.format("%03d-response.bin", number));
    return new FileOutputStream(new File(record, String.format("%03d-request.bin", number)));
  }

  @Override
  public InputStream getResponseStream() throws IOException
  {
    log.status = connection.getResponseCode();
    if (log.status >= 400)
    {
      try (InputStream error = connection.getErrorStream())
      {
        if (error != null)
        {
          log.errorBody = new String(error.readNBytes(1000), "UTF-8");
          error.transferTo(OutputStream.nullOutputStream());
        }
      }
      throw new IOException("HTTP status " + log.status);
    }
    InputStream in = connection.getInputStream();
    final OutputStream copy = responseCopy == null ? null : new FileOutputStream(responseCopy);
    return new FilterInputStream(in)
    {
      @Override
      public int read() throws IOException
      {
        byte[] one = new byte[1];
        return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
      }

      @Override
      public int read(byte[] data, int offset, int count) throws IOException
      {
        int read = in.read(data, offset, count);
        if (read > 0)
        {
          log.responseBytes += read;
          if (copy != null)
          {
            copy.write(data, offset, read);
          }
        }
        return read;
      }

      @Override
      public long skip(long count) throws IOException
      {
        long skipped = 0;
        while (skipped < count && read() >= 0)
        {
          skipped++;
        }
        return skipped;
      }

      @Override
      public boolean markSupported()
      {
        return false;
      }

      @Override
      public void close() throws IOException
      {
        super.close();
        if (copy != null)
        {
          copy.close();
        }
      }
    };
  }

  /**
   * Transport of a dialog that lives longer than one command. The library asks it for a new instance per message and gets one of the
   * transport of the current command.
   */
  static final class Redirect implements TransportI
  {
    TransportI target;

    Redirect(TransportI target)
    {
      this.target = target;
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
    public TransportI newInstance() throws IOException
    {
      return target.newInstance();
    }

    @Override
    public InputStream getResponseStream() throws IOException
    {
      return target.getResponseStream();
    }

    @Override
    public boolean isOnline(URI uri) throws IOException
    {
      return target.isOnline(uri);
    }

    @Override
    public long getContentLength()
    {
      return target.getContentLength();
    }

    @Override
    public OutputStream getConnection(URI uri, long length) throws IOException
    {
      return target.getConnection(uri, length);
    }
  }

  /** Transport without network: the request is counted and dropped, the response comes from memory (none if null). */
  static final class Loopback extends ProbeTransport
  {
    private final Log log;

    private final byte[] response;

    Loopback(Log log, byte[] response)
    {
      super(log, "buffered", 0, null);
      this.log = log;
      this.response = response;
    }

    @Override
    public TransportI newInstance()
    {
      return this;
    }

    @Override
    public OutputStream getConnection(URI uri, long length)
    {
      log.requests++;
      log.requestBytes = 0;
      log.announcedBytes = length;
      return new OutputStream()
      {
        @Override
        public void write(int b)
        {
          log.requestBytes++;
        }

        @Override
        public void write(byte[] data, int offset, int count)
        {
          log.requestBytes += count;
        }
      };
    }

    @Override
    public InputStream getResponseStream() throws IOException
    {
      if (response == null)
      {
        throw new NoResponse();
      }
      log.status = 200;
      log.responseBytes = response.length;
      return new ByteArrayInputStream(response);
    }
  }

  /** Thrown by {@link Loopback} instead of delivering a response. */
  static final class NoResponse extends IOException
  {
    private static final long serialVersionUID = 1L;

    NoResponse()
    {
      super("no response by intention");
    }
  }
}
