package org.crac;

/**
 * The interface of <a href="https://github.com/CRaC/org.crac">org.crac</a>, by which a Java program learns of checkpoints. Code that was compiled against
 * that library runs with this: the agent's classes come before those in a function's own jars.
 */
public final class Core {
    private static final Context<Resource> GLOBAL = new OrderedContext();

    private Core() {}

    /** The context in which Hydra tells of checkpoints. */
    public static Context<Resource> getGlobalContext() {
        return GLOBAL;
    }

    /** Hydra alone decides when a checkpoint is taken. */
    public static void checkpointRestore() throws CheckpointException, RestoreException {
        throw new UnsupportedOperationException("Hydra takes checkpoints by itself");
    }
}
