import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Random;

/** Writes the functions' input data to the directory that its argument names: the same bytes everywhere, as the seeds are fixed. */
public class MakeData {
    public static void main(String[] arguments) throws IOException {
        Path directory = Path.of(arguments[0]);
        write(directory.resolve("java-file-hashing.bin"), 4 << 20, 1);
        write(directory.resolve("java-http-request.bin"), 256 << 10, 2);
    }

    private static void write(Path file, int length, long seed) throws IOException {
        byte[] bytes = new byte[length];
        new Random(seed).nextBytes(bytes);
        Files.write(file, bytes);
    }
}
