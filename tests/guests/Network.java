// Interfaces, Unix sockets and HTTP, all between this program and itself.
import com.sun.net.httpserver.HttpServer;
import java.net.*;
import java.net.http.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.Collections;

public class Network {
    public static void main(String[] args) throws Exception {
        for (NetworkInterface i : Collections.list(NetworkInterface.getNetworkInterfaces())) {
            if (i.isLoopback()) {
                System.out.println(i.getName() + " " + i.isUp() + " " + i.getMTU() + " " + i.getIndex());
                System.out.println(Collections.list(i.getInetAddresses()));
            }
        }
        Path path = Path.of("/tmp/hydra-java-" + ProcessHandle.current().pid() + "-" + System.nanoTime());
        var address = UnixDomainSocketAddress.of(path);
        try (var listener = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            listener.bind(address);
            try (var client = SocketChannel.open(address); var server = listener.accept()) {
                client.write(ByteBuffer.wrap("unix".getBytes()));
                var bytes = ByteBuffer.allocate(9);
                server.read(bytes);
                System.out.println(new String(bytes.array(), 0, bytes.position()));
            }
        }
        Files.delete(path);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        server.createContext("/", exchange -> {
            byte[] answer = "http".getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
        URI uri = URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/");
        var request = HttpRequest.newBuilder(uri).build();
        System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
        server.stop(0);
        System.exit(0);
    }
}
