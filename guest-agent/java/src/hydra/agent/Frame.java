package hydra.agent;

/** The kinds and sizes of frames; see guest-agent/PROTOCOL.md. */
final class Frame {
    static final int VERSION = 1;
    /** Bytes before the payload: its length, the kind, three zeros. */
    static final int HEADER = 8;
    /** Most bytes of a payload. */
    static final int MAX_PAYLOAD = 64 << 20;

    static final int HELLO = 0x01;
    static final int LOADED = 0x02;
    static final int LOAD_FAILED = 0x03;
    static final int RESULT = 0x04;
    static final int RAISED = 0x05;
    static final int LOG = 0x06;
    static final int READY = 0x07;
    static final int CLOSED = 0x11;
    static final int LOAD = 0x81;
    static final int INVOKE = 0x82;
    static final int RESTORED = 0x83;
    static final int CHECKPOINT = 0x84;
    static final int OPEN = 0x91;
    static final int CLOSE = 0x92;

    private Frame() {}
}
