package hydra.agent;

import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.SocketChannel;

/** Frames over a stream socket. One thread reads; any thread may send. */
final class Channel {
    /** The JDK reads up to this many bytes through its stack, and allocates for more. */
    private static final int SMALL = 8 << 10;
    private static final int LARGE = 1 << 20;
    /** An input buffer larger than this is given back after use. */
    private static final int KEEP = 256 << 10;

    private final FileInputStream in;
    private final FileOutputStream out;
    /** What closes the descriptor; null if it is the process's own and closes with it. */
    private final SocketChannel socket;
    /** Guarded by the object's lock. */
    private boolean closed;

    /** The bytes received: the current frame is at {@code start}, later ones may follow it up to {@code end}. */
    private byte[] buffer = new byte[SMALL];
    private int start;
    private int end;
    private int payloadLength;
    private boolean payloadLost;

    private Channel(FileDescriptor descriptor, SocketChannel socket) {
        this.in = new FileInputStream(descriptor);
        this.out = new FileOutputStream(descriptor);
        this.socket = socket;
    }

    /** The channel on a descriptor that the process inherited. */
    static Channel inherited(int descriptor) {
        return new Channel(Descriptors.of(descriptor), null);
    }

    /** A new connection to the Unix socket at {@code path}. */
    static Channel connect(String path) throws IOException {
        SocketChannel socket = SocketChannel.open(UnixDomainSocketAddress.of(path));
        return new Channel(Descriptors.of(socket), socket);
    }

    /** Waits for the next frame and returns its kind, or -1 at the end of the channel. The previous payload is gone. */
    int receive() throws IOException {
        start += payloadLength;
        payloadLength = 0;
        if (start == end) {
            start = end = 0;
            if (buffer.length > KEEP) {
                buffer = new byte[SMALL];
            }
        }
        if (!fill(Frame.HEADER)) {
            return -1;
        }
        byte[] b = buffer;
        int at = start;
        int length = (b[at] & 0xff) | (b[at + 1] & 0xff) << 8 | (b[at + 2] & 0xff) << 16 | b[at + 3] << 24;
        int kind = b[at + 4] & 0xff;
        if (length < 0 || length > Frame.MAX_PAYLOAD || (b[at + 5] | b[at + 6] | b[at + 7]) != 0) {
            throw new ProtocolException("received a frame whose header is not one of the agent protocol");
        }
        start += Frame.HEADER;
        try {
            payloadLost = false;
            if (!fill(length)) {
                return -1;
            }
            payloadLength = length;
        } catch (OutOfMemoryError e) {
            payloadLost = true;
            if (!skip(length)) {
                return -1;
            }
        }
        return kind;
    }

    /** The payload of the frame received last was skipped, as there was no memory for it. */
    boolean payloadLost() {
        return payloadLost;
    }

    /** The array that holds the payload of the frame received last, at {@link #payloadStart}. */
    byte[] payload() {
        return buffer;
    }

    int payloadStart() {
        return start;
    }

    int payloadEnd() {
        return start + payloadLength;
    }

    /** Sends what {@code frame} holds after its header, with one write. */
    synchronized void send(int kind, Bytes frame) throws IOException {
        if (closed) {
            throw new IOException("the channel is closed");
        }
        byte[] data = frame.data;
        int payload = frame.payloadLength();
        data[0] = (byte) payload;
        data[1] = (byte) (payload >> 8);
        data[2] = (byte) (payload >> 16);
        data[3] = (byte) (payload >> 24);
        data[4] = (byte) kind;
        data[5] = data[6] = data[7] = 0;
        for (int done = 0; done < frame.length; ) {
            int count = Math.min(frame.length - done, LARGE);
            out.write(data, done, count);
            done += count;
        }
    }

    /** Makes a thread that waits in {@link #receive} see the end of the channel. */
    void shutdown() {
        try {
            socket.shutdownInput();
            socket.shutdownOutput();
        } catch (IOException e) {
            // Already closed: then nothing waits.
        }
    }

    /** Closes the connection; only the thread that receives may call this, as the descriptor's number may be used anew at once. */
    synchronized void close() {
        closed = true;
        try {
            // Not the streams: they would close the number again.
            socket.close();
        } catch (IOException e) {
            // A connection that cannot be closed is gone already.
        }
    }

    private boolean skip(int count) throws IOException {
        count -= end - start;
        start = end = 0;
        while (count > 0) {
            int read = in.read(buffer, 0, Math.min(buffer.length, count));
            if (read <= 0) {
                return false;
            }
            count -= read;
        }
        return true;
    }

    /** Reads until {@code wanted} bytes lie at {@code start}; false if the channel ends before. */
    private boolean fill(int wanted) throws IOException {
        while (end - start < wanted) {
            if (buffer.length - start < wanted) {
                byte[] larger = wanted <= buffer.length ? buffer : new byte[wanted];
                System.arraycopy(buffer, start, larger, 0, end - start);
                buffer = larger;
                end -= start;
                start = 0;
            }
            int room = buffer.length - end;
            int missing = wanted - (end - start);
            int count = in.read(buffer, end, Math.min(room, Math.max(SMALL, Math.min(missing, LARGE))));
            if (count <= 0) {
                return false;
            }
            end += count;
        }
        return true;
    }
}
