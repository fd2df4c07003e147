import java.io.*;
import java.lang.invoke.*;
import java.lang.reflect.*;
import java.math.*;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.*;
import java.nio.channels.*;
import java.nio.file.*;
import java.security.*;
import java.time.*;
import java.util.*;
import java.util.regex.*;
import java.util.stream.*;
import java.util.zip.*;
import javax.crypto.*;
import javax.crypto.spec.*;

/** The library where it leans on the machine: files, maps, classes made at run time, cryptography, time, heap limits. */
public class Library {
    interface Shape {
        double area(double x);
    }

    public static int twice(int x) {
        return 2 * x;
    }

    public static void main(String[] args) throws Throwable {
        Path dir = Files.createTempDirectory("library");
        Path file = dir.resolve("data");
        Files.write(file, IntStream.range(0, 5000).mapToObj(i -> "line " + i).collect(Collectors.toList()));
        System.out.println(Files.size(file) + " " + Files.lines(file).filter(l -> l.endsWith("7")).count());
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            MappedByteBuffer map = channel.map(FileChannel.MapMode.READ_WRITE, 0, channel.size());
            map.put(0, (byte) 'L');
            map.force();
            ByteBuffer head = ByteBuffer.allocate(6);
            channel.read(head, 0);
            System.out.println(new String(head.array()));
            try (FileLock lock = channel.lock()) {
                System.out.println(lock.isValid());
            }
        }
        Files.createSymbolicLink(dir.resolve("link"), file);
        Files.move(file, dir.resolve("moved"), StandardCopyOption.ATOMIC_MOVE);
        System.out.println(Files.exists(dir.resolve("link")) + " " + Files.isSymbolicLink(dir.resolve("link")));
        Files.copy(dir.resolve("moved"), dir.resolve("copy"));
        try (Stream<Path> walk = Files.walk(dir)) {
            System.out.println(walk.map(p -> dir.relativize(p).toString()).sorted().collect(Collectors.joining(",")));
        }
        try (ZipOutputStream zip = new ZipOutputStream(Files.newOutputStream(dir.resolve("z.zip")))) {
            zip.putNextEntry(new ZipEntry("entry"));
            zip.write(Files.readAllBytes(dir.resolve("copy")));
        }
        try (FileSystem zip = FileSystems.newFileSystem(dir.resolve("z.zip"))) {
            System.out.println(Files.size(zip.getPath("entry")));
        }
        try (Stream<Path> walk = Files.walk(dir)) {
            for (Path path : walk.sorted(Comparator.reverseOrder()).collect(Collectors.toList())) {
                Files.delete(path);
            }
        }
        System.out.println(Files.exists(dir));

        Shape proxy = (Shape) Proxy.newProxyInstance(Library.class.getClassLoader(), new Class<?>[] {Shape.class}, (self, method, given) -> (double) given[0] * 2);
        System.out.println(proxy.area(4) + " " + Library.class.getMethod("twice", int.class).invoke(null, 21));
        MethodHandle handle = MethodHandles.lookup().findStatic(Library.class, "twice", MethodType.methodType(int.class, int.class));
        int total = 0;
        for (int i = 0; i < 100_000; i++) {
            total += (int) handle.invokeExact(i);
        }
        System.out.println(total);
        Set<Class<?>> loaded = new HashSet<>();
        URL[] classes = {Library.class.getProtectionDomain().getCodeSource().getLocation()};
        for (int i = 0; i < 50; i++) {
            try (URLClassLoader loader = new URLClassLoader(classes, null)) {
                Class<?> again = loader.loadClass("Library");
                loaded.add(again);
                if ((int) again.getMethod("twice", int.class).invoke(null, i) != 2 * i) {
                    throw new AssertionError();
                }
            }
        }
        System.out.println(loaded.size());

        byte[] text = "The quick brown fox jumps over the lazy dog. ".repeat(2000).getBytes();
        for (String name : new String[] {"MD5", "SHA-1", "SHA-256", "SHA-512", "SHA3-256"}) {
            System.out.println(name + " " + new BigInteger(1, MessageDigest.getInstance(name).digest(text)).toString(16));
        }
        Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
        cipher.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(new byte[32], "AES"), new GCMParameterSpec(128, new byte[12]));
        CRC32 crc = new CRC32();
        crc.update(cipher.doFinal(text));
        System.out.println(crc.getValue());
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(256);
        KeyPair keys = generator.generateKeyPair();
        Signature signature = Signature.getInstance("SHA256withECDSA");
        signature.initSign(keys.getPrivate());
        signature.update(text);
        byte[] signed = signature.sign();
        signature.initVerify(keys.getPublic());
        signature.update(text);
        System.out.println(signature.verify(signed));
        System.out.println(Stream.generate(UUID::randomUUID).limit(500).distinct().count() + " " + new SecureRandom().generateSeed(4).length);
        Deflater deflater = new Deflater();
        deflater.setInput(text);
        deflater.finish();
        System.out.println(deflater.deflate(new byte[text.length]));

        System.out.println(new BigDecimal(2).pow(1000).sqrt(new MathContext(50)));
        System.out.println(Pattern.compile("(\\w+) (\\w+)").matcher("one two three four").replaceAll("$2 $1"));
        System.out.println(ZonedDateTime.ofInstant(Instant.EPOCH, ZoneId.of("Asia/Tokyo")) + " " + String.format(Locale.GERMANY, "%,.2f", 1234567.891));
        long begun = System.nanoTime();
        Thread.sleep(20);
        System.out.println(System.nanoTime() - begun >= 20_000_000L);
        System.out.println(Math.abs(System.currentTimeMillis() - Instant.now().toEpochMilli()) < 1000);

        List<byte[]> garbage = new ArrayList<>();
        for (int i = 0; i < 3000; i++) {
            garbage.add(new byte[100_000]);
            if (garbage.size() > 100) {
                garbage.clear();
            }
        }
        ByteBuffer direct = ByteBuffer.allocateDirect(8 << 20);
        direct.putLong(8 << 19, 77);
        System.out.println(garbage.size() + " " + direct.getLong(8 << 19));
        try {
            List<long[]> hoard = new ArrayList<>();
            for (;;) {
                hoard.add(new long[1 << 20]);
            }
        } catch (OutOfMemoryError e) {
            System.out.println("out of memory");
        }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook")));
        System.exit(4);
    }
}
