import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.Executors;

/** The JDK's own HTTP server and nothing else: java JdkServer PORT */
public class JdkServer {
    /** One of the two functions. */
    private interface Function {
        Map<String, Object> call(Map<String, Object> arguments) throws Exception;
    }

    public static void main(String[] arguments) throws IOException {
        InetAddress loopback = InetAddress.getByName("127.0.0.1");
        HttpServer server = HttpServer.create(new InetSocketAddress(loopback, Integer.parseInt(arguments[0])), 0);
        server.createContext("/hello", exchange -> answer(exchange, Work::hello));
        server.createContext("/page", exchange -> answer(exchange, Work::page));
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }

    @SuppressWarnings("unchecked") // The bench sends objects.
    private static void answer(HttpExchange exchange, Function function) throws IOException {
        String text = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
        byte[] body;
        try {
            body = Json.write(function.call((Map<String, Object>) Json.parse(text))).getBytes(StandardCharsets.UTF_8);
        } catch (Exception e) {
            exchange.sendResponseHeaders(500, -1);
            exchange.close();
            return;
        }
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }
}
