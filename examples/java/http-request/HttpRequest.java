import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.zip.CRC32;

/** Sends a GET request to {@code url}, and tells what came back. */
public class HttpRequest {
    private static final int TIMEOUT_MILLIS = 10_000;

    public static Map<String, Object> main(Map<String, Object> arguments) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) new URL((String) arguments.get("url")).openConnection();
        connection.setConnectTimeout(TIMEOUT_MILLIS);
        connection.setReadTimeout(TIMEOUT_MILLIS);
        int status = connection.getResponseCode();
        byte[] body;
        try (InputStream in = status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
            body = in == null ? new byte[0] : in.readAllBytes();
        }
        CRC32 checksum = new CRC32();
        checksum.update(body);
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("status", status);
        result.put("length", body.length);
        result.put("crc32", String.format("%08x", checksum.getValue()));
        return result;
    }
}
