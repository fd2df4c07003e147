import java.io.IOException;
import java.io.InputStream;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;

/** Downloads {@code url} into a file of its temporary directory, and hashes the file. */
public class FileHashing {
    private static final int CHUNK = 64 << 10;

    public static Map<String, Object> main(Map<String, Object> arguments) throws IOException, NoSuchAlgorithmException {
        Path file = Files.createTempFile(Path.of((String) arguments.get("tmpDir")), "download", null);
        try {
            try (InputStream body = new URL((String) arguments.get("url")).openStream()) {
                Files.copy(body, file, StandardCopyOption.REPLACE_EXISTING);
            }
            Map<String, Object> result = new LinkedHashMap<>();
            result.put("bytes", Files.size(file));
            result.put("sha256", hash(file));
            return result;
        } finally {
            Files.delete(file);
        }
    }

    private static String hash(Path file) throws IOException, NoSuchAlgorithmException {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        try (InputStream in = new DigestInputStream(Files.newInputStream(file), digest)) {
            byte[] chunk = new byte[CHUNK];
            while (in.read(chunk) >= 0) {
                // The stream updates the digest.
            }
        }
        return HexFormat.of().formatHex(digest.digest());
    }
}
