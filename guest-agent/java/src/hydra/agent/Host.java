package hydra.agent;

import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.nio.channels.SocketChannel;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/** The language host: makes and ends isolates as the control channel asks. */
final class Host implements Isolate.Listener {
    private final Channel control;
    private final Map<Long, Isolate> isolates = new ConcurrentHashMap<>();

    Host(Channel control) {
        this.control = control;
    }

    /** Runs until the control channel ends. */
    void serve() throws IOException {
        System.setOut(new IsolateStream(System.out, false));
        System.setErr(new IsolateStream(System.err, true));
        Runtime.getRuntime().addShutdownHook(new ExitGuard(isolates.values()));
        FunctionChannel.sendHello(control, null);
        // The first Unix socket of a JVM takes 20 ms to set up: rather now, while Hydra reads the HELLO, than at the first OPEN.
        SocketChannel.open(StandardProtocolFamily.UNIX).close();
        for (int kind = control.receive(); kind >= 0; kind = control.receive()) {
            Map<?, ?> request = FunctionChannel.receivedObject(control);
            if (!(request.get("isolate") instanceof Long id)) {
                throw new ProtocolException("received a control frame without an isolate");
            }
            switch (kind) {
                case Frame.OPEN -> open(id, request);
                case Frame.CLOSE -> close(id);
                default -> throw new ProtocolException(
                        "received a frame of kind 0x" + Integer.toHexString(kind) + " on the control channel");
            }
        }
    }

    private void open(long id, Map<?, ?> request) throws ProtocolException {
        if (!(request.get("socket") instanceof String socket && request.get("token") instanceof String token)) {
            throw new ProtocolException("received an OPEN without a socket or a token");
        }
        Isolate isolate = new Isolate(id, socket, token, this);
        if (isolates.putIfAbsent(id, isolate) != null) {
            throw new ProtocolException("received an OPEN for isolate " + id + ", which is open");
        }
        try {
            isolate.start();
        } catch (OutOfMemoryError e) {
            ended(isolate, "the thread of an isolate cannot be made: " + e.getMessage(), true);
        }
    }

    private void close(long id) {
        Isolate isolate = isolates.get(id);
        // Unknown if it ended by itself meanwhile; its CLOSED is on the way.
        if (isolate != null) {
            isolate.end("closed");
        }
    }

    /** An isolate's own thread calls this once its channel is closed. */
    @Override
    public void ended(Isolate isolate, String reason, boolean outOfMemory) {
        // The entry goes first: Hydra may use the number anew when it reads CLOSED.
        if (!isolates.remove(isolate.id(), isolate)) {
            return;
        }
        Map<String, Object> closed = new LinkedHashMap<>();
        closed.put("isolate", isolate.id());
        closed.put("reason", reason);
        closed.put("outOfMemory", outOfMemory);
        Bytes frame = new Bytes();
        FunctionChannel.writeJson(frame, closed);
        try {
            control.send(Frame.CLOSED, frame);
        } catch (IOException e) {
            // Hydra is gone; the thread that reads the control channel sees it, too, and ends the process.
        }
    }
}
