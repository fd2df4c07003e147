import com.sun.net.httpserver.HttpServer;
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;

/** A server and its clients in one program: HTTP, selectors, Unix sockets, datagrams. */
public class Network {
    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        ExecutorService pool = Executors.newFixedThreadPool(4);
        server.setExecutor(pool);
        server.createContext("/", exchange -> {
            byte[] body = exchange.getRequestBody().readAllBytes();
            byte[] answer = (exchange.getRequestMethod() + " " + exchange.getRequestURI() + " " + body.length).getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
        String base = "http://127.0.0.1:" + server.getAddress().getPort();
        HttpClient client = HttpClient.newBuilder().executor(pool).version(HttpClient.Version.HTTP_1_1).build();
        List<CompletableFuture<String>> answers = IntStream.range(0, 40).mapToObj(i -> {
            HttpRequest request = HttpRequest.newBuilder(URI.create(base + "/" + i))
                .POST(HttpRequest.BodyPublishers.ofByteArray(new byte[i * 1000])).build();
            return client.sendAsync(request, HttpResponse.BodyHandlers.ofString()).thenApply(HttpResponse::body);
        }).collect(Collectors.toList());
        for (CompletableFuture<String> answer : answers) {
            System.out.println(answer.get(20, TimeUnit.SECONDS));
        }
        server.stop(0);
        pool.shutdownNow();

        Path path = Files.createTempDirectory("sockets").resolve("socket");
        try (ServerSocketChannel listener = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            listener.bind(UnixDomainSocketAddress.of(path));
            Thread echo = new Thread(() -> {
                try (SocketChannel accepted = listener.accept()) {
                    ByteBuffer buffer = ByteBuffer.allocate(4096);
                    while (accepted.read(buffer) >= 0) {
                        buffer.flip();
                        while (buffer.hasRemaining()) {
                            accepted.write(buffer);
                        }
                        buffer.clear();
                    }
                } catch (IOException e) {
                    System.out.println(e);
                }
            });
            echo.start();
            try (SocketChannel socket = SocketChannel.open(UnixDomainSocketAddress.of(path))) {
                Thread writer = new Thread(() -> {
                    try {
                        socket.write(ByteBuffer.wrap(new byte[200_000]));
                        socket.shutdownOutput();
                    } catch (IOException e) {
                        System.out.println(e);
                    }
                });
                writer.start();
                ByteBuffer buffer = ByteBuffer.allocateDirect(10_000);
                int total = 0;
                for (int n; (n = socket.read(buffer)) >= 0; buffer.clear()) {
                    total += n;
                }
                writer.join();
                System.out.println(total);
            }
            echo.join();
        }
        Files.delete(path);
        Files.delete(path.getParent());

        Selector selector = Selector.open();
        ServerSocketChannel acceptor = ServerSocketChannel.open().bind(new InetSocketAddress("127.0.0.1", 0));
        acceptor.configureBlocking(false).register(selector, SelectionKey.OP_ACCEPT);
        int clients = 10;
        Thread[] callers = new Thread[clients];
        String[] said = new String[clients];
        for (int i = 0; i < clients; i++) {
            int self = i;
            callers[i] = new Thread(() -> {
                try (Socket socket = new Socket()) {
                    socket.connect(acceptor.getLocalAddress(), 5000);
                    socket.getOutputStream().write(("caller " + self + "\n").getBytes());
                    said[self] = new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine();
                } catch (IOException e) {
                    said[self] = e.toString();
                }
            });
            callers[i].start();
        }
        int served = 0;
        while (served < clients) {
            selector.select(5000);
            for (Iterator<SelectionKey> keys = selector.selectedKeys().iterator(); keys.hasNext();) {
                SelectionKey key = keys.next();
                keys.remove();
                if (key.isAcceptable()) {
                    acceptor.accept().configureBlocking(false).register(selector, SelectionKey.OP_READ);
                } else {
                    SocketChannel channel = (SocketChannel) key.channel();
                    ByteBuffer buffer = ByteBuffer.allocate(100);
                    channel.read(buffer);
                    String line = new String(buffer.array(), 0, buffer.position(), StandardCharsets.UTF_8).toUpperCase();
                    channel.write(ByteBuffer.wrap(line.getBytes()));
                    channel.close();
                    served++;
                }
            }
        }
        for (Thread caller : callers) {
            caller.join();
        }
        System.out.println(String.join(", ", said));
        new Thread(selector::wakeup).start();
        System.out.println(selector.select(10_000));

        try (DatagramSocket receiver = new DatagramSocket(0, InetAddress.getLoopbackAddress()); DatagramSocket sender = new DatagramSocket()) {
            sender.send(new DatagramPacket("hello".getBytes(), 5, receiver.getLocalSocketAddress()));
            DatagramPacket packet = new DatagramPacket(new byte[100], 100);
            receiver.setSoTimeout(5000);
            receiver.receive(packet);
            System.out.println(new String(packet.getData(), 0, packet.getLength()));
            receiver.setSoTimeout(20);
            try {
                receiver.receive(packet);
            } catch (SocketTimeoutException e) {
                System.out.println("timed out");
            }
        }
        try (Socket refused = new Socket("127.0.0.1", 1)) {
            System.out.println(refused);
        } catch (ConnectException e) {
            System.out.println(e.getMessage());
        }
        System.out.println(NetworkInterface.getByName("lo").isLoopback() + " " + InetAddress.getByName("localhost").isLoopbackAddress());
    }
}
