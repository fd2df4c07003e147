package hydra.agent;

import java.io.PrintStream;
import java.util.Locale;

/**
 * {@code System.out} or {@code System.err} of a language host: hands every call to the stream of the calling thread's isolate.
 * It does so call by call, not byte by byte, so that no lock is shared: an isolate whose output nobody reads delays no other.
 */
final class IsolateStream extends PrintStream {
    private final PrintStream process;
    private final boolean err;

    /** {@code process} takes what no isolate prints; {@code err} is true for {@code System.err}. */
    IsolateStream(PrintStream process, boolean err) {
        super(process, false);
        this.process = process;
        this.err = err;
    }

    private PrintStream target() {
        Isolate isolate = Isolate.current();
        Output output = isolate == null ? null : isolate.output();
        if (output == null) {
            return process;
        }
        return err ? output.err() : output.out();
    }

    @Override public void write(int b) { target().write(b); }
    @Override public void write(byte[] bytes, int offset, int count) { target().write(bytes, offset, count); }
    @Override public void write(byte[] bytes) { target().write(bytes, 0, bytes.length); }
    @Override public void writeBytes(byte[] bytes) { target().write(bytes, 0, bytes.length); }
    @Override public void flush() { target().flush(); }
    /** Closes nothing: the stream is every isolate's. */
    @Override public void close() { target().flush(); }
    @Override public boolean checkError() { return target().checkError(); }

    @Override public void print(boolean value) { target().print(value); }
    @Override public void print(char value) { target().print(value); }
    @Override public void print(int value) { target().print(value); }
    @Override public void print(long value) { target().print(value); }
    @Override public void print(float value) { target().print(value); }
    @Override public void print(double value) { target().print(value); }
    @Override public void print(char[] value) { target().print(value); }
    @Override public void print(String value) { target().print(value); }
    @Override public void print(Object value) { target().print(value); }
    @Override public void println() { target().println(); }
    @Override public void println(boolean value) { target().println(value); }
    @Override public void println(char value) { target().println(value); }
    @Override public void println(int value) { target().println(value); }
    @Override public void println(long value) { target().println(value); }
    @Override public void println(float value) { target().println(value); }
    @Override public void println(double value) { target().println(value); }
    @Override public void println(char[] value) { target().println(value); }
    @Override public void println(String value) { target().println(value); }
    @Override public void println(Object value) { target().println(value); }

    @Override
    public PrintStream printf(String format, Object... arguments) {
        target().printf(format, arguments);
        return this;
    }

    @Override
    public PrintStream printf(Locale locale, String format, Object... arguments) {
        target().printf(locale, format, arguments);
        return this;
    }

    @Override
    public PrintStream format(String format, Object... arguments) {
        target().format(format, arguments);
        return this;
    }

    @Override
    public PrintStream format(Locale locale, String format, Object... arguments) {
        target().format(locale, format, arguments);
        return this;
    }

    @Override
    public PrintStream append(CharSequence text) {
        target().append(text);
        return this;
    }

    @Override
    public PrintStream append(CharSequence text, int start, int end) {
        target().append(text, start, end);
        return this;
    }

    @Override
    public PrintStream append(char character) {
        target().append(character);
        return this;
    }
}
