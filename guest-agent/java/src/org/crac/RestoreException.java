package org.crac;

/** What resources threw is suppressed in this. */
public class RestoreException extends Exception {
    private static final long serialVersionUID = 1;

    /** Without a message. */
    public RestoreException() {}

    /** With a message. */
    public RestoreException(String message) {
        super(message);
    }
}
