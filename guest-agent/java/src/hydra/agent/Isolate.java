package hydra.agent;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.ForkJoinWorkerThread;

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

    /** How long the function's threads have to end after an interrupt, and after each stop. */
    private static final long GRACE_MILLIS = 100;
    /** How often they are stopped: a function can catch the first few. */
    private static final int STOPS = 5;
    private static final long LOOK_MILLIS = 5;

    private final long id;
    private final String socket;
    private final String token;
    private final Listener listener;
    private final Object lock = new Object();

    /** Guarded by {@code lock}. */
    private Channel channel;
    /** It ends. Guarded by {@code lock}. */
    private boolean ending;
    /** Why it ends; null while it is not known. Guarded by {@code lock}. */
    private String reason;
    /** Guarded by {@code lock}. */
    private boolean outOfMemory;
    /** Guarded by {@code lock}. */
    private boolean reported;
    private volatile Output output;
    /** Serves the function. */
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
            if (ending) {
                return;
            }
            ending = true;
            this.reason = reason;
            if (channel != null) {
                channel.shutdown();
            }
        }
        // A thread that none of the function's is, so that it is not among those that are stopped.
        Thread ender = new Thread(getParent(), this::endThreads, "end of " + getName());
        ender.setDaemon(true);
        ender.start();
    }

    /**
     * Ends an isolate whose thread will never return, as it waits in {@code System.exit}: tells the listener in its place.
     */
    void abandon(String reason) {
        synchronized (lock) {
            if (channel != null) {
                channel.shutdown();
            }
            ending = true;
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
            this.outOfMemory = outOfMemory;
        }
        closeChannel();
        end(reason);
    }

    private void serve() throws IOException {
        Channel connected = Channel.connect(socket);
        synchronized (lock) {
            channel = connected;
            if (ending) {
                return;
            }
        }
        output = new Output(connected);
        new FunctionChannel(connected, output, token).serve(false);
    }

    /** By the thread that receives, or when that has ended. */
    private void closeChannel() {
        synchronized (lock) {
            if (channel != null) {
                channel.close();
            }
        }
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

    /** Ends the function's threads, then tells the listener. If there are some that do not end, Hydra sees that no CLOSED comes, and kills the host. */
    private void endThreads() {
        try {
            interrupt();
            int stops = 0;
            for (List<Thread> left = left(false); !left.isEmpty(); left = left(stops > 0)) {
                synchronized (lock) {
                    if (reported) {
                        return; // It is in System.exit, whose lock must not be given up.
                    }
                }
                if (stops < STOPS && stop(left)) {
                    stops++;
                }
            }
        } catch (InterruptedException e) {
            return; // Nobody does that.
        }
        closeChannel();
        String reason;
        boolean outOfMemory;
        synchronized (lock) {
            reason = this.reason;
            outOfMemory = this.outOfMemory;
        }
        report(reason, outOfMemory);
    }

    /** False where the JVM cannot do that: from Java 20 on. */
    private static boolean stop(List<Thread> threads) {
        try {
            // Unsafe in general; here a thread holds nothing that outlives its isolate but the JDK's own state,
            // and the other way to end it, which Hydra takes if this fails, is to kill every isolate.
            threads.forEach(Thread::stop);
            return true;
        } catch (UnsupportedOperationException e) {
            return false;
        }
    }

    /** The function's threads that go on after they had a while to end; {@code stopped}: they were stopped. */
    private List<Thread> left(boolean stopped) throws InterruptedException {
        thread.join(GRACE_MILLIS);
        for (long waited = 0; ; waited += LOOK_MILLIS) {
            Thread[] all = new Thread[2 * activeCount() + 8];
            int count = enumerate(all);
            List<Thread> left = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                if (all[i] == thread || goesOn(all[i], stopped)) {
                    left.add(all[i]);
                }
            }
            if (left.isEmpty() || waited >= GRACE_MILLIS) {
                return left;
            }
            Thread.sleep(LOOK_MILLIS);
        }
    }

    /** Whether a thread runs the function's code, or will by itself. One of an executor that has nothing to do does not. */
    private static boolean goesOn(Thread thread, boolean stopped) {
        if (thread instanceof ForkJoinWorkerThread worker && worker.getPool() == ForkJoinPool.commonPool()) {
            return false; // It works for all isolates.
        }
        if (thread.getClass().getName().equals("java.util.TimerThread")) {
            return thread.isAlive();
        }
        StackTraceElement[] frames = thread.getStackTrace();
        if (stopped && frames.length > 0 && frames[0].isNativeMethod() && thread.getState() == Thread.State.RUNNABLE) {
            return false; // It is in a system call, and stops when that returns.
        }
        for (StackTraceElement frame : frames) {
            // Neither the JDK's, whose classes are all in modules, nor the agent's.
            if (frame.getModuleName() == null && !"app".equals(frame.getClassLoaderName())) {
                return true;
            }
        }
        return false;
    }
}
