import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.net.Socket;
import java.net.SocketException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.KeyPairGenerator;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.UUID;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadLocalRandom;
import java.util.random.RandomGenerator;
import org.crac.Context;
import org.crac.Core;
import org.crac.Resource;

/** What the tests of snapshot sandboxes ask of a function, in Java; snapshots.py and snapshots.js do the same. */
public class Snapshots {
    private static final SecureRandom SECURE = new SecureRandom();
    private static final SecureRandom DRBG = secure("DRBG");
    private static final SecureRandom SHA1 = secure("SHA1PRNG");
    private static final SecureRandom REPEATS = secure("SHA1PRNG");
    private static final ExecutorService OTHER = Executors.newSingleThreadExecutor(Snapshots::daemon);
    private static final List<String> EVENTS = new ArrayList<>();
    private static final Resource RESOURCE = new Resource() {
        @Override
        public void beforeCheckpoint(Context<? extends Resource> context) {
            EVENTS.add("listener before");
        }

        @Override
        public void afterRestore(Context<? extends Resource> context) {
            EVENTS.add("listener after");
        }
    };

    private static int calls;
    private static Socket connection;
    private static long last = System.nanoTime();
    private static boolean broken;

    static {
        REPEATS.setSeed(1);
        Core.getGlobalContext().register(RESOURCE);
        Runtime.getRuntime().addShutdownHook(new Thread(Snapshots::cleanUp));
    }

    /** Says so past what goes with the channel. */
    private static void cleanUp() {
        try (FileOutputStream error = new FileOutputStream(FileDescriptor.err)) {
            error.write("cleaned up\n".getBytes(StandardCharsets.UTF_8));
        } catch (IOException ended) {
            throw new IllegalStateException(ended);
        }
    }

    static void beforeCheckpoint() {
        if (broken) {
            throw new IllegalStateException("deliberate");
        }
        EVENTS.add("checkpoint");
    }

    static void afterRestore() {
        EVENTS.add("restore");
    }

    public static Object main(Object arguments) throws Exception {
        calls++;
        Map<?, ?> args = (Map<?, ?>) arguments;
        String action = args.get("do") == null ? "count" : (String) args.get("do");
        switch (action) {
            case "count":
                return calls;
            case "identity":
                return identity();
            case "wait":
                try (Socket peer = new Socket("127.0.0.1", number(args, "port"))) {
                    return received(peer);
                }
            case "connect":
                connection = new Socket("127.0.0.1", number(args, "port"));
                return received(connection);
            case "use":
                try {
                    return received(connection);
                } catch (SocketException e) {
                    return e.getMessage().equals("Connection reset") ? "reset" : e.getMessage();
                }
            case "write":
                Files.writeString(note(args), (String) args.get("text"), StandardOpenOption.CREATE, StandardOpenOption.APPEND);
                return "written";
            case "read":
                return Files.readString(note(args));
            case "crash":
                Runtime.getRuntime().halt(134);
                return "not reached";
            case "events":
                return EVENTS;
            case "break":
                broken = true;
                return "broken";
            default:
                throw new IllegalStateException("unknown: " + action);
        }
    }

    private static Map<String, Object> identity() throws Exception {
        long now = System.nanoTime();
        List<Integer> shuffled = new ArrayList<>(Collections.nCopies(64, 0));
        for (int i = 0; i < 64; i++) {
            shuffled.set(i, i);
        }
        Collections.shuffle(shuffled);
        Map<String, Object> identity = new LinkedHashMap<>();
        identity.put("random", Math.random());
        identity.put("uuid", UUID.randomUUID().toString());
        identity.put("secure", SECURE.nextLong());
        identity.put("drbg", DRBG.nextLong());
        identity.put("sha1", SHA1.nextLong());
        identity.put("strong", SecureRandom.getInstanceStrong().nextLong());
        identity.put("new", new Random().nextLong());
        identity.put("split", new SplittableRandom().nextLong());
        identity.put("generator", RandomGenerator.of("L64X128MixRandom").nextLong());
        identity.put("local", ThreadLocalRandom.current().nextLong());
        identity.put("other thread", OTHER.submit(() -> ThreadLocalRandom.current().nextLong()).get());
        identity.put("shuffle", shuffled.toString());
        identity.put("key", Base64.getEncoder().encodeToString(KeyPairGenerator.getInstance("X25519").generateKeyPair().getPublic().getEncoded()));
        identity.put("same", REPEATS.nextLong());
        identity.put("time", System.currentTimeMillis() / 1e3);
        identity.put("back", now < last);
        last = now;
        return identity;
    }

    private static Path note(Map<?, ?> args) {
        return Path.of((String) args.get("tmpDir"), "note");
    }

    private static String received(Socket socket) throws IOException {
        byte[] bytes = new byte[8];
        int count = socket.getInputStream().read(bytes);
        return count < 0 ? "end" : new String(bytes, 0, count, StandardCharsets.UTF_8);
    }

    private static SecureRandom secure(String algorithm) {
        try {
            return SecureRandom.getInstance(algorithm);
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    private static Thread daemon(Runnable task) {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        return thread;
    }

    private static int number(Map<?, ?> args, String key) {
        return ((Number) args.get(key)).intValue();
    }
}
