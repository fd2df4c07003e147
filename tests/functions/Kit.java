import java.net.HttpURLConnection;
import java.net.URL;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;

/** What the end-to-end tests ask of a function, in Java; kit.py and kit.js do the same. */
public class Kit {
    private static int calls;
    private static List<Object> kept = new ArrayList<>();
    private static volatile int ticks;

    static {
        System.out.println("loaded");
    }

    public static Object main(Object arguments) throws Exception {
        calls++;
        Map<?, ?> args = arguments instanceof Map<?, ?> map ? map : Map.of();
        String action = (String) args.get("do");
        if (action == null) {
            return arguments;
        }
        switch (action) {
            case "count":
                return calls;
            case "sleep":
                System.out.println(args.get("text"));
                Thread.sleep(number(args, "ms"));
                return "slept";
            case "loop":
                while (true) {
                    calls++;
                }
            case "hog":
                for (int mib = 0; mib < number(args, "mib"); mib++) {
                    kept.add(new byte[1 << 20]);
                    Thread.sleep(1);
                }
                return held(args);
            case "hog outside":
                for (int mib = 0; mib < number(args, "mib"); mib++) {
                    kept.add(ByteBuffer.allocateDirect(1 << 20));
                    Thread.sleep(1);
                }
                return held(args);
            case "raise":
                throw new IllegalStateException("deliberate: " + args.get("text"));
            case "print":
                System.out.println(args.get("text"));
                System.err.println(args.get("text"));
                return "printed";
            case "flood":
                for (int line = 0; line < number(args, "lines"); line++) {
                    System.out.println("f".repeat(1000));
                }
                return "flooded";
            case "exit":
                System.exit(3);
                return "not reached";
            case "large":
                return "x".repeat(number(args, "length"));
            case "unserialisable":
                return new Thread();
            case "read":
                return Files.readString(Path.of((String) args.get("path")));
            case "write":
                Files.writeString(Path.of((String) args.get("path")), (String) args.get("text"));
                return "written";
            case "list":
                try (var files = Files.list(Path.of((String) args.get("path")))) {
                    return files.map(file -> file.getFileName().toString()).sorted().toList();
                }
            case "where":
                return Path.of(Kit.class.getProtectionDomain().getCodeSource().getLocation().toURI()).getParent().toString();
            case "ask":
                var asked = (HttpURLConnection) new URL((String) args.get("url")).openConnection();
                return asked.getResponseCode();
            case "environment":
                return new ArrayList<>(new TreeSet<>(System.getenv().keySet()));
            case "background":
                new Thread(Kit::tick).start();
                return "started";
            case "ticks":
                return ticks;
            default:
                throw new IllegalStateException("unknown: " + action);
        }
    }

    private static String held(Map<?, ?> args) throws InterruptedException {
        Thread.sleep(args.containsKey("hold") ? number(args, "hold") : 0);
        kept = new ArrayList<>();
        return "held";
    }

    private static void tick() {
        while (true) {
            ticks++;
            try {
                Thread.sleep(10);
            } catch (InterruptedException ended) {
                return;
            }
        }
    }

    private static int number(Map<?, ?> args, String key) {
        return ((Number) args.get(key)).intValue();
    }
}
