package org.crac;

/** Resources that are told together. */
public abstract class Context<R extends Resource> implements Resource {
    /** For those who make contexts of their own. */
    protected Context() {}

    /** Tells the resources, the last one that was registered first. */
    @Override
    public abstract void beforeCheckpoint(Context<? extends Resource> context) throws CheckpointException;

    /** Tells the resources in the order of their registration. */
    @Override
    public abstract void afterRestore(Context<? extends Resource> context) throws RestoreException;

    /** From now on {@code resource} is told, for as long as somebody else holds it. */
    public abstract void register(R resource);
}
