package hydra.agent;

/** Text that is not JSON, or a value that JSON has no form for. It has no stack, as it is expected and must be cheap. */
final class JsonException extends Exception {
    private static final long serialVersionUID = 1;

    /** Where in the value the trouble is, such as {@code .rows[3]}; grows from the inside out. */
    private String path = "";

    JsonException(String message) {
        super(message, null, false, false);
    }

    JsonException within(String step) {
        if (path.length() < 200) {
            path = step + path;
        }
        return this;
    }

    String path() {
        return path;
    }
}
