package org.crac;

/** Something that a program holds and that does not survive in a copy of it, such as a connection. */
public interface Resource {
    /** Called when a checkpoint is about to be taken. If it throws, none is taken. */
    void beforeCheckpoint(Context<? extends Resource> context) throws Exception;

    /** Called in every program that goes on from the checkpoint, the one that was checkpointed included. */
    void afterRestore(Context<? extends Resource> context) throws Exception;
}
