package org.crac;

import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Tells its resources in order. It does not keep them alive: those of an isolate that was closed go with it. */
final class OrderedContext extends Context<Resource> {
    private final List<WeakReference<Resource>> resources = new ArrayList<>();

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) throws CheckpointException {
        List<Resource> order = alive();
        Collections.reverse(order);
        CheckpointException failed = null;
        for (Resource resource : order) {
            try {
                resource.beforeCheckpoint(this);
            } catch (Exception e) {
                failed = failed == null ? new CheckpointException("a resource failed before the checkpoint: " + e) : failed;
                failed.addSuppressed(e);
            }
        }
        if (failed != null) {
            throw failed;
        }
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) throws RestoreException {
        RestoreException failed = null;
        for (Resource resource : alive()) {
            try {
                resource.afterRestore(this);
            } catch (Exception e) {
                failed = failed == null ? new RestoreException("a resource failed after the restore: " + e) : failed;
                failed.addSuppressed(e);
            }
        }
        if (failed != null) {
            throw failed;
        }
    }

    @Override
    public void register(Resource resource) {
        synchronized (resources) {
            resources.removeIf(reference -> reference.get() == null);
            resources.add(new WeakReference<>(resource));
        }
    }

    private List<Resource> alive() {
        List<Resource> alive = new ArrayList<>();
        synchronized (resources) {
            for (WeakReference<Resource> reference : resources) {
                Resource resource = reference.get();
                if (resource != null) {
                    alive.add(resource);
                }
            }
        }
        return alive;
    }
}
