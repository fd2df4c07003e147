package org.crac;

/** What resources threw is suppressed in this. */
public class CheckpointException extends Exception {
    private static final long serialVersionUID = 1;

    /** Without a message. */
    public CheckpointException() {}

    /** With a message. */
    public CheckpointException(String message) {
        super(message);
    }
}
