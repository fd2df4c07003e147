package hydra.agent;

import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.Map;

/** Serves one function on its channel: says hello, loads, then answers invocations until the channel ends. */
final class FunctionChannel {
    private final Channel channel;
    private final Output output;
    /** Tells Hydra which isolate this is; null outside a language host. */
    private final String token;
    private final Bytes answer = new Bytes();
    private Function function;
    /** What the function's hook threw when the program went on from a snapshot; null if nothing. */
    private Failure failedHook;

    FunctionChannel(Channel channel, Output output, String token) {
        this.channel = channel;
        this.output = output;
        this.token = token;
    }

    /** Runs until the channel ends. {@code ownProcess}: the function is alone, so that the JVM's temporary directory can be its own. */
    void serve(boolean ownProcess) throws IOException {
        sendHello(channel, token);
        try {
            for (int kind = channel.receive(); kind >= 0; kind = channel.receive()) {
                if (kind == Frame.INVOKE && function != null) {
                    invoke();
                } else if (kind == Frame.CHECKPOINT) {
                    checkpoint();
                } else if (kind == Frame.RESTORED) {
                    restored();
                } else if (kind == Frame.LOAD) {
                    load(ownProcess);
                } else {
                    throw new ProtocolException("received a frame of kind 0x" + Integer.toHexString(kind)
                            + (function == null ? " before a function was loaded" : ", which is not for agents"));
                }
            }
        } finally {
            unload();
        }
    }

    private void unload() {
        if (function != null) {
            function.close();
            function = null;
        }
    }

    /** The first frame of every channel; {@code token} may be null. */
    static void sendHello(Channel channel, String token) throws IOException {
        Map<String, Object> hello = new LinkedHashMap<>();
        hello.put("protocol", Frame.VERSION);
        hello.put("language", "java");
        hello.put("runtime", System.getProperty("java.vm.name") + " " + System.getProperty("java.version"));
        if (token != null) {
            hello.put("token", token);
        }
        Bytes frame = new Bytes();
        writeJson(frame, hello);
        channel.send(Frame.HELLO, frame);
    }

    /** The object in the payload of the frame that {@code channel} received last. */
    static Map<?, ?> receivedObject(Channel channel) throws ProtocolException {
        try {
            if (JsonParser.parse(channel.payload(), channel.payloadStart(), channel.payloadEnd()) instanceof Map<?, ?> object) {
                return object;
            }
        } catch (JsonException e) {
            throw new ProtocolException("received a frame whose payload is not JSON: " + e.getMessage());
        }
        throw new ProtocolException("received a frame whose payload is not a JSON object");
    }

    /** Writes what the agent itself put together and is therefore known to have a JSON form. */
    static void writeJson(Bytes frame, Map<String, ?> object) {
        try {
            JsonWriter.write(frame, object);
        } catch (JsonException e) {
            throw new IllegalStateException(e);
        }
    }

    private void load(boolean ownProcess) throws IOException {
        Map<?, ?> request = receivedObject(channel);
        if (!(request.get("code") instanceof String && request.get("tmpDir") instanceof String tmpDir)) {
            throw new ProtocolException("received a LOAD without code or tmpDir");
        }
        unload();
        if (ownProcess) {
            System.setProperty("java.io.tmpdir", tmpDir);
        }
        Failure failure = null;
        try {
            function = Function.load(request);
        } catch (LoadException e) {
            failure = e.failure();
        } catch (ThreadDeath death) {
            throw death;
        } catch (Throwable thrown) {
            failure = Failure.of(thrown);
        }
        answer(Frame.LOADED, Frame.LOAD_FAILED, failure);
    }

    private void checkpoint() throws IOException {
        answer.reset();
        Failure failure = null;
        try {
            Checkpoint.before(function);
        } catch (ThreadDeath death) {
            throw death;
        } catch (Throwable thrown) {
            failure = Function.failure(thrown);
        }
        answer(Frame.READY, Frame.RAISED, failure);
    }

    private void restored() throws IOException {
        try {
            Checkpoint.after(function, String.valueOf(receivedObject(channel).get("entropy")));
        } catch (ThreadDeath death) {
            throw death;
        } catch (ProtocolException broken) {
            throw broken;
        } catch (Throwable thrown) {
            failedHook = Function.failure(thrown);
        }
    }

    private void invoke() throws IOException {
        answer.reset();
        if (failedHook != null) {
            Failure failure = failedHook;
            failedHook = null;
            answer(Frame.RESULT, Frame.RAISED, failure);
            return;
        }
        Failure failure = channel.payloadLost()
                ? new Failure("the arguments are larger than the free memory", OutOfMemoryError.class.getName(), "")
                : function.invoke(channel.payload(), channel.payloadStart(), channel.payloadEnd(), answer);
        answer(Frame.RESULT, Frame.RAISED, failure);
    }

    private void answer(int success, int failed, Failure failure) throws IOException {
        // An interrupt that the function left behind must not reach its next invocation.
        Thread.interrupted();
        output.flush();
        if (failure != null) {
            failure.write(answer);
        }
        channel.send(failure == null ? success : failed, answer);
        answer.reset();
    }
}
