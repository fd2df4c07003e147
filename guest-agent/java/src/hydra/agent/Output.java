package hydra.agent;

import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/** What one function prints: a stream each for standard output and standard error, which send lines as {@code LOG} frames. */
final class Output {
    /** Most bytes of text in one frame. */
    private static final int MAX_TEXT = 64 << 10;

    private final Lines outLines;
    private final Lines errLines;
    private final PrintStream out;
    private final PrintStream err;

    Output(Channel channel) {
        outLines = new Lines(channel, 1);
        errLines = new Lines(channel, 2);
        out = new PrintStream(outLines, false, StandardCharsets.UTF_8);
        err = new PrintStream(errLines, false, StandardCharsets.UTF_8);
    }

    PrintStream out() {
        return out;
    }

    PrintStream err() {
        return err;
    }

    /** Sends what was printed without a newline at its end. */
    void flush() {
        if (outLines.pending) {
            out.flush();
        }
        if (errLines.pending) {
            err.flush();
        }
    }

    /** Keeps bytes until a line is complete. */
    private static final class Lines extends OutputStream {
        private final Channel channel;
        private final int stream;
        private final Bytes frame = new Bytes();
        /** The frame holds text. Read without the lock, as the function's own thread is the one that must not miss its own text. */
        volatile boolean pending;

        Lines(Channel channel, int stream) {
            this.channel = channel;
            this.stream = stream;
            begin();
        }

        @Override
        public synchronized void write(int b) throws IOException {
            write(new byte[] {(byte) b}, 0, 1);
        }

        @Override
        public synchronized void write(byte[] bytes, int offset, int count) throws IOException {
            int end = offset + count;
            int line = end;
            while (line > offset && bytes[line - 1] != '\n') {
                line--;
            }
            add(bytes, offset, line - offset);
            if (line > offset) {
                flush();
            }
            add(bytes, line, end - line);
        }

        @Override
        public synchronized void flush() throws IOException {
            if (textLength() == 0) {
                return;
            }
            pending = false;
            try {
                makeUtf8();
                channel.send(Frame.LOG, frame);
            } finally {
                begin();
            }
        }

        private void begin() {
            frame.reset();
            frame.put(stream);
        }

        private int textLength() {
            return frame.payloadLength() - 1;
        }

        private void add(byte[] bytes, int offset, int count) throws IOException {
            while (count > 0) {
                int room = MAX_TEXT - textLength();
                if (count <= room) {
                    frame.put(bytes, offset, count);
                    pending = true;
                    return;
                }
                int part = room;
                // A frame ends between characters, not within one.
                while (part > room - 4 && part > 0 && (bytes[offset + part] & 0xc0) == 0x80) {
                    part--;
                }
                frame.put(bytes, offset, part);
                offset += part;
                count -= part;
                flush();
            }
        }

        /** Replaces bytes that are not UTF-8, which a function can write with {@code System.out.write}. */
        private void makeUtf8() {
            int from = Frame.HEADER + 1;
            int bits = 0;
            for (int i = from; i < frame.length; i++) {
                bits |= frame.data[i];
            }
            if (bits >= 0) {
                return;
            }
            byte[] text = new String(frame.data, from, frame.length - from, StandardCharsets.UTF_8).getBytes(StandardCharsets.UTF_8);
            int length = Utf8.cut(text, text.length, MAX_TEXT);
            frame.length = from;
            frame.put(text, 0, length);
        }
    }
}
