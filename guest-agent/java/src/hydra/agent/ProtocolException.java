package hydra.agent;

import java.io.IOException;

/** The peer sent what the agent protocol does not allow; the channel is of no more use. */
final class ProtocolException extends IOException {
    private static final long serialVersionUID = 1;

    ProtocolException(String message) {
        super(message);
    }
}
