package hydra.agent;

/** A function cannot be loaded; {@code type} names the kind of trouble in Java's own terms. */
final class LoadException extends Exception {
    private static final long serialVersionUID = 1;

    private final String type;

    LoadException(Class<? extends Throwable> type, String message) {
        super(message, null, false, false);
        this.type = type.getName();
    }

    /** As above, because of {@code cause}, whose stack is shown. */
    LoadException(String message, Throwable cause) {
        super(message, cause, false, false);
        this.type = cause.getClass().getName();
    }

    Failure failure() {
        return new Failure(getMessage(), type, getCause() == null ? "" : Failure.stackOf(getCause()));
    }
}
