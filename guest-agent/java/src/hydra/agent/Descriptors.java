package hydra.agent;

import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.lang.reflect.Field;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import sun.misc.Unsafe;

/**
 * File descriptors by number. Java has no public way to read from a socket that a process inherited as descriptor N
 * ({@code System.inheritedChannel} knows only descriptor 0, and {@code /dev/fd/N} cannot be opened for a socket), so
 * the number is stored into a {@link FileDescriptor} with {@code sun.misc.Unsafe}. {@code --add-opens java.base/java.io}
 * would do the same, but makes every start 5 ms slower, as the JVM then cannot take its module graph from the CDS
 * archive, and would open {@code java.io} to functions.
 *
 * <p>Close-on-exec: Java cannot set it, and need not. {@link ProcessBuilder} closes every descriptor from 3 on in the
 * child before it executes the program.
 */
final class Descriptors {
    private static final Unsafe UNSAFE = unsafe();
    private static final long NUMBER = offset(FileDescriptor.class, "fd");

    private Descriptors() {}

    /** The open descriptor {@code number}; nothing closes it when the object is collected. */
    static FileDescriptor of(int number) {
        FileDescriptor descriptor = new FileDescriptor();
        UNSAFE.putInt(descriptor, NUMBER, number);
        return descriptor;
    }

    /**
     * The descriptor of a connected socket. Reading and writing it directly, not through the {@link SocketChannel}, keeps a
     * function that interrupts its threads from closing the channel: NIO closes a channel when a thread that uses it is interrupted.
     */
    static FileDescriptor of(SocketChannel socket) {
        return of(number(socket));
    }

    static int number(SocketChannel socket) {
        return UNSAFE.getInt(socket, offset(socket.getClass(), "fdVal"));
    }

    /** Writes a line to the process's own standard error, whatever {@code System.err} is now. */
    static void report(String line) {
        try {
            // Not closed: that would close standard error.
            new FileOutputStream(FileDescriptor.err).write((line + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException e) {
            // Nobody reads standard error, so there is nobody to tell.
        }
    }

    /** So many bytes of randomness from the system itself. */
    static byte[] systemRandom(int count) {
        try (FileInputStream random = new FileInputStream("/dev/urandom")) {
            return random.readNBytes(count);
        } catch (IOException e) {
            throw new IllegalStateException("the system gives no randomness", e);
        }
    }

    static Unsafe unsafe() {
        try {
            Field field = Unsafe.class.getDeclaredField("theUnsafe");
            field.setAccessible(true);
            return (Unsafe) field.get(null);
        } catch (ReflectiveOperationException e) {
            throw new LinkageError("this JVM has no sun.misc.Unsafe, which the agent needs to use an inherited socket", e);
        }
    }

    private static long offset(Class<?> type, String field) {
        try {
            return UNSAFE.objectFieldOffset(type.getDeclaredField(field));
        } catch (NoSuchFieldException e) {
            throw new LinkageError("this JVM's " + type.getName() + " has no field " + field
                    + ", which the agent needs to use an inherited socket", e);
        }
    }
}
