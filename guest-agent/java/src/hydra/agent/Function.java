package hydra.agent;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;

/** A loaded function. */
final class Function {
    private final CodeLoader loader;
    private final EntryPoint entry;
    private final String tmpDir;
    private final int maxResult;
    /** Holds the arguments of a function that takes text while they are written as JSON again. */
    private final Bytes scratch = new Bytes();

    private Function(CodeLoader loader, EntryPoint entry, String tmpDir, int maxResult) {
        this.loader = loader;
        this.entry = entry;
        this.tmpDir = tmpDir;
        this.maxResult = maxResult;
    }

    /** Loads what a {@code LOAD} frame describes, and makes its loader the thread's context class loader. */
    static Function load(Map<?, ?> request) throws LoadException {
        String path = (String) request.get("code");
        String tmpDir = (String) request.get("tmpDir");
        long maxResult = request.get("maxResult") instanceof Long limit ? limit : Frame.MAX_PAYLOAD;
        CodeLoader loader;
        try {
            loader = CodeLoader.open(path);
        } catch (LinkageError e) {
            throw new LoadException("the class file cannot be loaded: " + e, e);
        }
        Thread.currentThread().setContextClassLoader(loader);
        EntryPoint entry = EntryPoint.find(loader, (String) request.get("entryPoint"));
        return new Function(loader, entry, tmpDir, (int) Math.min(maxResult, Frame.MAX_PAYLOAD));
    }

    /** Calls the function with arguments as a client sent them, writes its result to {@code out}, and returns null, or the failure. */
    Failure invoke(byte[] text, int start, int end, Bytes out) {
        try {
            Object argument = argument(text, start, end);
            Object result = entry.call(argument);
            if (result instanceof String string) {
                out.putUtf8(string);
            } else {
                JsonWriter.write(out, result);
            }
        } catch (JsonException e) {
            out.reset();
            return new Failure("the function's result" + e.path() + " " + e.getMessage(), "InvalidResult", "");
        } catch (InvalidArguments e) {
            return new Failure(e.getMessage(), "InvalidArguments", "");
        } catch (Bytes.TooLarge e) {
            out.reset();
            return tooLarge("more than " + Frame.MAX_PAYLOAD);
        } catch (ThreadDeath death) {
            // Thrown into the thread by CLOSE; if the function threw it itself, that ends its isolate, too.
            throw death;
        } catch (Throwable thrown) {
            out.reset();
            return failure(thrown);
        }
        if (out.payloadLength() > maxResult) {
            int length = out.payloadLength();
            out.reset();
            return tooLarge(Integer.toString(length));
        }
        return null;
    }

    /** Calls the function's hook for when a checkpoint is taken, if it has one, and throws what it throws. */
    void beforeCheckpoint() throws Throwable {
        entry.callHook("beforeCheckpoint");
    }

    /** Calls the function's hook for when it goes on from a checkpoint, if it has one, and throws what it throws. */
    void afterRestore() throws Throwable {
        entry.callHook("afterRestore");
    }

    void close() {
        try {
            loader.close();
        } catch (IOException e) {
            // The jar was only read; there is nothing to lose.
        }
    }

    private Object argument(byte[] text, int start, int end) throws InvalidArguments, JsonException {
        Object value;
        JsonException notJson = null;
        if (start == end) {
            value = new java.util.LinkedHashMap<String, Object>();
        } else {
            try {
                value = JsonParser.parse(text, start, end);
            } catch (JsonException e) {
                notJson = e;
                value = new String(text, start, end - start, StandardCharsets.UTF_8);
            }
        }
        if (notJson == null && value instanceof Map<?, ?>) {
            @SuppressWarnings("unchecked") // The parser makes no other map.
            Map<String, Object> object = (Map<String, Object>) value;
            object.put("tmpDir", tmpDir);
            return entry.takes == EntryPoint.Takes.STRING ? asText(object) : object;
        }
        return switch (entry.takes) {
            case OBJECT -> value;
            case STRING -> new String(text, start, end - start, StandardCharsets.UTF_8);
            case MAP -> throw new InvalidArguments("the function takes a Map, but the arguments are "
                    + (notJson != null ? "not JSON: " + notJson.getMessage() : "JSON of another kind: " + kind(value)));
        };
    }

    private String asText(Map<String, Object> object) throws JsonException {
        scratch.reset();
        JsonWriter.write(scratch, object);
        return new String(scratch.data, Frame.HEADER, scratch.payloadLength(), StandardCharsets.UTF_8);
    }

    private static String kind(Object value) {
        if (value instanceof List<?>) {
            return "an array";
        }
        if (value instanceof String) {
            return "a string";
        }
        if (value instanceof Number) {
            return "a number";
        }
        return String.valueOf(value);
    }

    private Failure tooLarge(String length) {
        return new Failure("the result has " + length + " bytes, the most are " + maxResult, "ResultTooLarge", "");
    }

    static Failure failure(Throwable thrown) {
        try {
            return Failure.of(thrown);
        } catch (OutOfMemoryError | StackOverflowError e) {
            return new Failure(e.getClass().getSimpleName(), e.getClass().getName(), "");
        }
    }

    /** The arguments do not fit the function's parameter. */
    private static final class InvalidArguments extends Exception {
        private static final long serialVersionUID = 1;

        InvalidArguments(String message) {
            super(message, null, false, false);
        }
    }
}
