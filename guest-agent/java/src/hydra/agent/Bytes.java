package hydra.agent;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** A growing buffer that holds one outgoing frame: room for the header, then the payload. It is used again and again. */
final class Bytes {
    private static final int SMALL = 4 << 10;
    /** A buffer larger than this is given back after use, so that one large result does not make an idle sandbox large. */
    private static final int KEEP = 256 << 10;

    byte[] data = new byte[SMALL];
    int length = Frame.HEADER;

    void reset() {
        if (data.length > KEEP) {
            data = new byte[SMALL];
        }
        length = Frame.HEADER;
    }

    int payloadLength() {
        return length - Frame.HEADER;
    }

    void put(int b) {
        if (length == data.length) {
            grow(1);
        }
        data[length++] = (byte) b;
    }

    void put(byte[] bytes, int offset, int count) {
        if (data.length - length < count) {
            grow(count);
        }
        System.arraycopy(bytes, offset, data, length, count);
        length += count;
    }

    /** Appends ASCII text. */
    @SuppressWarnings("deprecation") // getBytes(int, int, byte[], int) copies ASCII without an intermediate array.
    void putAscii(String text) {
        int count = text.length();
        if (data.length - length < count) {
            grow(count);
        }
        text.getBytes(0, count, data, length);
        length += count;
    }

    void putUtf8(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        put(bytes, 0, bytes.length);
    }

    /** Makes room for {@code count} more bytes. */
    void grow(int count) {
        long wanted = (long) length + count;
        if (wanted > Frame.MAX_PAYLOAD + Frame.HEADER) {
            throw new TooLarge();
        }
        long roomy = Math.min(Math.max(wanted, 2L * data.length), Frame.MAX_PAYLOAD + Frame.HEADER);
        data = Arrays.copyOf(data, (int) roomy);
    }

    /** What is to be sent does not fit a frame. */
    static final class TooLarge extends RuntimeException {
        private static final long serialVersionUID = 1;

        TooLarge() {
            super("larger than a frame's " + Frame.MAX_PAYLOAD + " bytes", null, false, false);
        }
    }
}
