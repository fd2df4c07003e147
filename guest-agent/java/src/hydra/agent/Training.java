package hydra.agent;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.Channels;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Run by build.sh to make the class-data archive: plays Hydra against the real agent in both modes within one JVM, so that
 * the classes of a start, a {@code LOAD} and an {@code INVOKE} are in the archive. Its arguments are a function's jar and a
 * directory for a socket.
 */
final class Training {
    private final Path code;
    private final Path directory;
    private final UnixDomainSocketAddress address;
    private final ServerSocketChannel server;

    private Training(Path code, Path directory) throws IOException {
        this.code = code;
        this.directory = directory;
        address = UnixDomainSocketAddress.of(directory.resolve("training.sock"));
        server = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
        server.bind(address);
    }

    public static void main(String[] arguments) throws Exception {
        Training training = new Training(Path.of(arguments[0]), Path.of(arguments[1]));
        training.runHost();
        training.runFunction();
    }

    private void runHost() throws Exception {
        SocketChannel agentSide = SocketChannel.open(address);
        Peer hydra = new Peer(server.accept());
        Thread client = client(() -> {
            hydra.expect(Frame.HELLO);
            hydra.send(Frame.OPEN, "{\"isolate\":1,\"socket\":\"" + address + "\",\"token\":\"t\",\"memory\":64}");
            Peer isolate = new Peer(server.accept());
            drive(isolate);
            isolate.socket.close();
            hydra.expect(Frame.CLOSED);
            hydra.socket.close();
        });
        new Host(Channel.inherited(Descriptors.number(agentSide))).serve();
        client.join();
    }

    /** Does not return: the agent ends the process, which makes the JVM write its archive. */
    private void runFunction() throws Exception {
        SocketChannel agentSide = SocketChannel.open(address);
        Peer hydra = new Peer(server.accept());
        Files.delete(address.getPath());
        client(() -> {
            drive(hydra);
            hydra.socket.close();
        });
        FreshSecureRandom.install();
        Main.main(new String[] {"--function", Integer.toString(Descriptors.number(agentSide))});
    }

    private void drive(Peer agent) throws IOException {
        agent.expect(Frame.HELLO);
        agent.send(Frame.LOAD, "{\"name\":\"training\",\"code\":\"" + code + "\",\"entryPoint\":null,\"tmpDir\":\"" + directory
                + "\",\"maxResult\":1048576}");
        agent.expect(Frame.LOADED);
        for (String text : new String[] {"{\"name\":\"World\",\"list\":[1,2.5,true,null,{\"a\":\"\\u00e4\"}]}", "{\"fail\":true}"}) {
            agent.send(Frame.INVOKE, text);
            agent.expect(Frame.LOG);
            agent.expect(text.contains("fail") ? Frame.RAISED : Frame.RESULT);
        }
        agent.send(Frame.CHECKPOINT, "");
        agent.expect(Frame.READY);
        agent.send(Frame.RESTORED, "{\"entropy\":\"" + "00".repeat(32) + "\",\"time\":0}");
        agent.send(Frame.INVOKE, "{}");
        agent.expect(Frame.LOG);
        agent.expect(Frame.RESULT);
    }

    private static Thread client(Act act) {
        Thread thread = new Thread(() -> {
            try {
                act.run();
            } catch (Throwable failed) {
                Descriptors.report("training failed: " + failed);
                Runtime.getRuntime().halt(1);
            }
        });
        thread.start();
        return thread;
    }

    /** What a thread of the client does. */
    private interface Act {
        void run() throws Exception;
    }

    /** Hydra's side of a channel. */
    private static final class Peer {
        final SocketChannel socket;
        private final DataInputStream in;
        private final OutputStream out;

        Peer(SocketChannel socket) {
            this.socket = socket;
            InputStream stream = Channels.newInputStream(socket);
            in = new DataInputStream(stream);
            out = Channels.newOutputStream(socket);
        }

        void send(int kind, String text) throws IOException {
            byte[] payload = text.getBytes(StandardCharsets.UTF_8);
            ByteBuffer frame = ByteBuffer.allocate(Frame.HEADER + payload.length).order(java.nio.ByteOrder.LITTLE_ENDIAN);
            frame.putInt(payload.length).putInt(kind).put(payload);
            out.write(frame.array());
        }

        void expect(int kind) throws IOException {
            int length = Integer.reverseBytes(in.readInt());
            int actual = Integer.reverseBytes(in.readInt());
            String text = new String(in.readNBytes(length), StandardCharsets.UTF_8);
            if (actual != kind) {
                throw new IOException("expected a frame of kind " + kind + ", got " + actual + ": " + text);
            }
        }
    }
}
