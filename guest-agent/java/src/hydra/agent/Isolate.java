package hydra.agent;

import java.io.IOException;

/**
 * A function in a language host: a class loader, a channel, a thread, and a thread group. A thread that a function starts
 * joins the group of the one that starts it, so the group tells whose a thread is.
 */
@SuppressWarnings("removal") // Daemon thread groups and Thread.stop: Java 17 has nothing in their place.
final class Isolate extends ThreadGroup {
    /** Told when an isolate has ended. */
    interface Listener {
        void ended(Isolate isolate, String reason, boolean outOfMemory);
    }

    /** How long a function has to end after an interrupt before its threads are stopped. */
    private static final long GRACE_MILLIS = 200;
    /** How often its threads are stopped: a function can catch the first few. */
    private static final int STOPS = 5;

    private final long id;
    private final String socket;
    private final String token;
    private final Listener listener;
    private final Object lock = new Object();

    /** Guarded by {@code lock}. */
    private Channel channel;
    /** Why the isolate was told to end; null if it was not. Guarded by {@code lock}. */
    private String endReason;
    /** Guarded by {@code lock}. */
    private boolean reported;
    private volatile Output output;
    private Thread thread;

    Isolate(long id, String socket, String token, Listener listener) {
        super("isolate " + id);
        this.id = id;
        this.socket = socket;
        this.token = token;
        this.listener = listener;
        // The JVM's list of groups holds a group until its last thread ends.
        setDaemon(true);
        setMaxPriority(Thread.NORM_PRIORITY);
    }

    long id() {
        return id;
    }

    /** The isolate whose thread calls this, or null. */
    static Isolate current() {
        return of(Thread.currentThread());
    }

    static Isolate of(Thread thread) {
        for (ThreadGroup group = thread.getThreadGroup(); group != null; group = group.getParent()) {
            if (group instanceof Isolate isolate) {
                return isolate;
            }
        }
        return null;
    }

    /** What the isolate prints to; null until it is connected. */
    Output output() {
        return output;
    }

    void start() {
        thread = new Thread(this, getName()) {
            @Override
            public void run() {
                Isolate.this.run();
            }
        };
        thread.setDaemon(true);
        // Not the agent's loader, which the control thread has: a function must not find the agent.
        thread.setContextClassLoader(ClassLoader.getPlatformClassLoader());
        thread.start();
    }

    /** Ends the isolate, even in the middle of an invocation. Returns at once; the listener is told when it has ended. */
    void end(String reason) {
        synchronized (lock) {
            if (endReason != null) {
                return;
            }
            endReason = reason;
            if (channel != null) {
                channel.shutdown();
            }
        }
        Thread stopper = new Thread(getParent(), this::stopThreads, "end of " + getName());
        stopper.setDaemon(true);
        stopper.start();
    }

    /**
     * Ends an isolate whose thread will never return, as it waits in {@code System.exit}: tells the listener in its place.
     */
    void abandon(String reason) {
        synchronized (lock) {
            if (channel != null) {
                channel.shutdown();
            }
            endReason = reason;
        }
        report(reason, false);
    }

    /** A thread of the function died of an exception. */
    @Override
    public void uncaughtException(Thread dead, Throwable thrown) {
        if (!(thrown instanceof ThreadDeath)) {
            System.err.println("Exception in thread \"" + dead.getName() + "\" " + Failure.stackOf(thrown).stripTrailing());
        }
    }

    private void run() {
        String reason = "closed";
        boolean outOfMemory = false;
        try {
            serve();
        } catch (ProtocolException broken) {
            reason = broken.getMessage();
        } catch (IOException gone) {
            reason = channel == null ? "cannot connect to " + socket + ": " + gone.getMessage() : "closed";
        } catch (ThreadDeath death) {
            reason = "the function's thread was stopped";
        } catch (OutOfMemoryError e) {
            reason = "out of memory";
            outOfMemory = true;
        } catch (Throwable thrown) {
            reason = "the agent failed: " + thrown;
        }
        synchronized (lock) {
            if (endReason != null) {
                reason = endReason;
            }
        }
        finish();
        report(reason, outOfMemory);
    }

    private void serve() throws IOException {
        Channel connected = Channel.connect(socket);
        synchronized (lock) {
            channel = connected;
            if (endReason != null) {
                return;
            }
        }
        output = new Output(connected);
        new FunctionChannel(connected, output, token).serve(false);
    }

    private void finish() {
        synchronized (lock) {
            if (channel != null) {
                channel.close();
            }
        }
        // Threads that the function left behind.
        interrupt();
    }

    private void report(String reason, boolean outOfMemory) {
        synchronized (lock) {
            if (reported) {
                return;
            }
            reported = true;
        }
        listener.ended(this, reason, outOfMemory);
    }

    private void stopThreads() {
        try {
            thread.join(GRACE_MILLIS);
            if (!thread.isAlive()) {
                return;
            }
            interrupt();
            for (int i = 0; i < STOPS; i++) {
                thread.join(GRACE_MILLIS);
                if (!thread.isAlive()) {
                    // Its last steps may have been what was stopped.
                    finish();
                    report("closed", false);
                    return;
                }
                // Unsafe in general; here the thread holds nothing that outlives its isolate but the JDK's own state,
                // and the other way to end it, which Hydra takes if this fails, is to kill every isolate.
                thread.stop();
            }
        } catch (InterruptedException | UnsupportedOperationException e) {
            // Newer JVMs cannot stop a thread: Hydra sees that no CLOSED comes, and kills the host.
        }
    }
}
