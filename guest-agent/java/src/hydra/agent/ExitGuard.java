package hydra.agent;

import java.util.Collection;

/**
 * Keeps {@code System.exit} in a function from ending the other functions of a language host. The JVM runs its shutdown
 * hooks before it ends, on behalf of the thread that called {@code exit}; this hook never returns, so that thread, and any
 * later one that calls {@code exit}, waits for ever while all others go on. The isolates they belong to are reported as ended.
 * Unlike a security manager this costs nothing, and is there in every version of Java. {@code Runtime.halt} runs no
 * hooks: it ends the host.
 */
final class ExitGuard extends Thread {
    private static final long PERIOD_MILLIS = 50;

    private final Collection<Isolate> isolates;

    ExitGuard(Collection<Isolate> isolates) {
        super("exit guard");
        this.isolates = isolates;
    }

    @Override
    public void run() {
        while (true) {
            if (!isolates.isEmpty()) {
                endExiting();
            }
            try {
                sleep(PERIOD_MILLIS);
            } catch (InterruptedException e) {
                // Nothing may end this thread but the end of the process.
            }
        }
    }

    private static void endExiting() {
        getAllStackTraces().forEach((thread, frames) -> {
            Isolate isolate = Isolate.of(thread);
            if (isolate == null) {
                return;
            }
            for (StackTraceElement frame : frames) {
                if (frame.getClassName().equals("java.lang.Shutdown") && frame.getMethodName().equals("exit")) {
                    isolate.abandon("the function called System.exit");
                }
            }
        });
    }
}
