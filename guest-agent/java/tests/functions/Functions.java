import java.io.File;
import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The functions that the tests load: one method each. */
public class Functions {
    private static int calls;

    public static Map<String, Object> echo(Map<String, Object> arguments) {
        return arguments;
    }

    public static String text(String arguments) {
        return arguments;
    }

    public static Object any(Object value) {
        return Map.of("class", value == null ? "null" : value.getClass().getName(), "value", String.valueOf(value));
    }

    public static Map<String, Object> overloaded(Map<String, Object> arguments) {
        return Map.of("took", "Map");
    }

    public static String overloaded(String arguments) {
        return "String";
    }

    public static Object overloaded(Object arguments) {
        return "Object";
    }

    public Object onInstance(Object value) {
        return getClass().getName();
    }

    public static int count(Object ignored) {
        return ++calls;
    }

    public static void nothing(Object ignored) {}

    enum Colour { RED }

    record Point(int x, List<String> names) {}

    public static Object shapes(Object ignored) {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("ints", new int[] {1, 2});
        map.put("strings", new String[] {"a", null});
        map.put("record", new Point(1, List.of("n")));
        map.put("enum", Colour.RED);
        map.put("char", 'c');
        map.put("keys", Map.of(7, true));
        map.put("text", "\"\\\n\u0001\u00e4\u20ac\ud83d\ude00");
        map.put("double", 1e10);
        map.put("big", new java.math.BigInteger("123456789012345678901234567890"));
        return map;
    }

    public static Object unknown(Object ignored) {
        return Map.of("rows", List.of(1, new java.util.Date(0)));
    }

    public static Object notFinite(Object ignored) {
        return Double.NaN;
    }

    public static Object cycle(Object ignored) {
        List<Object> list = new ArrayList<>();
        list.add(list);
        return list;
    }

    public static Object large(Map<String, Object> arguments) {
        char[] text = new char[((Long) arguments.get("length")).intValue()];
        Arrays.fill(text, 'x');
        return new String(text);
    }

    public static Object raise(Object ignored) {
        try {
            Integer.parseInt("x");
        } catch (NumberFormatException e) {
            throw new IllegalStateException("outer", e);
        }
        return null;
    }

    static class Hostile extends RuntimeException {
        @Override
        public String getMessage() {
            throw new IllegalStateException();
        }
    }

    public static Object raiseHostile(Object ignored) {
        throw new Hostile();
    }

    public static Object recurse(Object value) {
        return recurse(List.of(value, recurse(value)));
    }

    public static Object exhaust(Object ignored) {
        List<byte[]> all = new ArrayList<>();
        while (true) {
            all.add(new byte[1 << 20]);
        }
    }

    public static Object print(Object ignored) throws Exception {
        System.out.println("line one");
        System.err.println("error line");
        System.out.print("gr\u00fc\u00df");
        System.out.printf(" %d", 5);
        Thread thread = new Thread(() -> System.out.println(" from a thread"));
        thread.start();
        thread.join();
        System.out.print("no newline");
        return "done";
    }

    public static Object printMuch(Object ignored) {
        char[] text = new char[100_000];
        Arrays.fill(text, '\u20ac');
        System.out.println(text);
        System.out.write(0xff);
        System.out.write('\n');
        return "done";
    }

    public static Object dieInThread(Object ignored) throws Exception {
        Thread thread = new Thread(() -> {
            throw new IllegalStateException("in a thread");
        });
        thread.start();
        thread.join();
        return "done";
    }

    public static Object interrupt(Object ignored) {
        boolean before = Thread.currentThread().isInterrupted();
        Thread.currentThread().interrupt();
        System.out.println("printed while interrupted");
        return before;
    }

    public static Object leaveThread(Object ignored) {
        Thread thread = new Thread(() -> {
            while (true) {
                try {
                    Thread.sleep(1000);
                } catch (InterruptedException e) {
                    return;
                }
            }
        });
        thread.start();
        return "left";
    }

    /** Leaves a thread that does not end when it is interrupted. */
    public static Object leaveSpinning(Object ignored) {
        new Thread(() -> {
            while (true) {
                System.setProperty("test.spins", Long.toString(System.nanoTime()));
            }
        }).start();
        return "left";
    }

    /** Leaves threads that have nothing to do, one that will have, and one that waits for input. */
    public static Object leaveIdle(Object ignored) throws Exception {
        java.util.concurrent.Executors.newFixedThreadPool(1).submit(() -> 1).get();
        java.util.concurrent.CompletableFuture.supplyAsync(() -> 1).orTimeout(1, java.util.concurrent.TimeUnit.MINUTES).get();
        new java.util.Timer().schedule(new java.util.TimerTask() {
            @Override
            public void run() {
                System.setProperty("test.spins", Long.toString(System.nanoTime()));
            }
        }, 0, 1);
        java.net.ServerSocket listener = new java.net.ServerSocket(0);
        new Thread(() -> {
            try {
                listener.accept();
            } catch (java.io.IOException e) {
                throw new java.io.UncheckedIOException(e);
            }
        }).start();
        return "left";
    }

    public static Object spins(Object ignored) {
        return System.getProperty("test.spins");
    }

    public static Object exit(Object ignored) {
        System.exit(3);
        return "unreached";
    }

    public static Object spin(Object ignored) {
        System.out.println("spinning");
        while (true) {
            Thread.onSpinWait();
        }
    }

    public static Object sleep(Object ignored) throws Exception {
        System.out.println("sleeping");
        Thread.sleep(1_000_000);
        return "woke";
    }

    /** What the function can see of the agent. */
    public static Object snoop(Object ignored) {
        Map<String, Object> seen = new HashMap<>();
        try {
            Class.forName("hydra.agent.Main");
            seen.put("agent", true);
        } catch (ClassNotFoundException e) {
            seen.put("agent", false);
        }
        seen.put("context", Thread.currentThread().getContextClassLoader() == Functions.class.getClassLoader());
        seen.put("resource", Functions.class.getResource("/data.txt") != null);
        return seen;
    }

    /** A place that all isolates share, the JVM's properties, tells one isolate whether the loader of another was collected. */
    public static Object keepWeakly(Object ignored) {
        System.getProperties().put("test.loader", new WeakReference<>(Functions.class.getClassLoader()));
        return "kept";
    }

    public static Object isCollected(Object ignored) {
        System.gc();
        return ((WeakReference<?>) System.getProperties().get("test.loader")).get() == null;
    }

    public static Object temporary(Map<String, Object> arguments) throws Exception {
        return File.createTempFile("test", null).getParent();
    }

    public static Object childDescriptors(Object ignored) throws Exception {
        Process process = new ProcessBuilder("/bin/sh", "-c", "readlink /proc/$$/fd/*").start();
        return new String(process.getInputStream().readAllBytes());
    }

    public static void program(String[] arguments) {}

    private static Object hidden(Object value) {
        return value;
    }
}
