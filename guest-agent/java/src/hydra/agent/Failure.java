package hydra.agent;

import java.util.LinkedHashMap;
import java.util.Map;

/** What {@code LOAD_FAILED} and {@code RAISED} say: a message, a type, and the stack with the function's own frames. */
final class Failure {
    private static final int MAX_MESSAGE = 64 << 10;
    private static final int MAX_STACK = 256 << 10;
    /** Most exceptions of a chain of causes that are shown; also the way out of a chain that is a circle. */
    private static final int MAX_CAUSES = 16;

    private final String message;
    private final String type;
    private final String stack;

    Failure(String message, String type, String stack) {
        this.message = message;
        this.type = type;
        this.stack = stack;
    }

    /** The function threw {@code thrown}. */
    static Failure of(Throwable thrown) {
        String type = thrown.getClass().getName();
        String message = messageOf(thrown);
        return new Failure(message == null ? type : message, type, stackOf(thrown));
    }

    /** Writes the payload. Should even this run out of memory, the answer is short, as there must be one. */
    void write(Bytes out) {
        try {
            Map<String, Object> payload = new LinkedHashMap<>();
            payload.put("message", Utf8.cut(message, MAX_MESSAGE));
            payload.put("type", type);
            payload.put("stack", Utf8.cut(stack, MAX_STACK));
            JsonWriter.write(out, payload);
        } catch (JsonException | OutOfMemoryError | StackOverflowError e) {
            out.reset();
            out.putAscii("{\"message\":\"out of memory\",\"type\":\"java.lang.OutOfMemoryError\",\"stack\":\"\"}");
        }
    }

    static String stackOf(Throwable thrown) {
        StringBuilder text = new StringBuilder();
        for (int i = 0; thrown != null && i < MAX_CAUSES && text.length() < MAX_STACK; i++) {
            text.append(i == 0 ? "" : "Caused by: ").append(thrown.getClass().getName());
            String message = messageOf(thrown);
            if (message != null) {
                text.append(": ").append(message);
            }
            text.append('\n');
            appendFrames(text, thrown.getStackTrace());
            thrown = causeOf(thrown);
        }
        return text.toString();
    }

    private static void appendFrames(StringBuilder text, StackTraceElement[] frames) {
        int end = frames.length;
        while (end > 0 && isMachinery(frames[end - 1])) {
            end--;
        }
        if (end == 0) {
            return;
        }
        for (int i = 0; i < end; i++) {
            if (!isAgent(frames[i])) {
                text.append("\tat ").append(frames[i]).append('\n');
            }
        }
    }

    /** What lies below the function on the stack: the agent, and what it calls the function through. */
    private static boolean isMachinery(StackTraceElement frame) {
        String name = frame.getClassName();
        return isAgent(frame) || name.startsWith("java.lang.invoke.") || name.startsWith("java.lang.reflect.")
                || name.startsWith("jdk.internal.reflect.") || name.equals("java.lang.Thread")
                || name.equals("java.lang.Class") || name.startsWith("java.lang.ClassLoader");
    }

    private static boolean isAgent(StackTraceElement frame) {
        return frame.getClassName().startsWith("hydra.agent.");
    }

    /** The message; {@code getMessage} is the function's code and can throw in its turn. */
    private static String messageOf(Throwable thrown) {
        try {
            return thrown.getMessage();
        } catch (Throwable e) {
            return "(its getMessage threw " + e.getClass().getName() + ")";
        }
    }

    private static Throwable causeOf(Throwable thrown) {
        try {
            return thrown.getCause();
        } catch (Throwable e) {
            return null;
        }
    }
}
