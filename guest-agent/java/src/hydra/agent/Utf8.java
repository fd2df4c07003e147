package hydra.agent;

import java.nio.charset.StandardCharsets;

/** Cuts UTF-8 text between characters. */
final class Utf8 {
    private Utf8() {}

    /** The length of the longest beginning of {@code text} that has at most {@code limit} bytes and ends with a whole character. */
    static int cut(byte[] text, int length, int limit) {
        if (length <= limit) {
            return length;
        }
        int end = limit;
        while (end > 0 && (text[end] & 0xc0) == 0x80) {
            end--;
        }
        return end;
    }

    static String cut(String text, int limit) {
        if (text.length() <= limit / 3) {
            return text;
        }
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        if (bytes.length <= limit) {
            return text;
        }
        return new String(bytes, 0, cut(bytes, bytes.length, limit), StandardCharsets.UTF_8);
    }
}
