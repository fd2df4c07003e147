package hydra.agent;

import java.io.IOException;

/** Starts the agent: {@code --function FD} serves one function on a socket, {@code --host FD} a control channel. */
public final class Main {
    /** The exit status after a broken protocol (EX_SOFTWARE of sysexits.h). */
    private static final int PROTOCOL_BROKEN = 70;
    private static final int FAILED = 1;
    /** The exit status after a wrong command line (EX_USAGE of sysexits.h). */
    private static final int USAGE = 64;

    /** The system property that says that the program may be checkpointed. Not for functions. */
    private static final String CHECKPOINTS = "hydra.checkpoints";

    private Main() {}

    public static void main(String[] arguments) {
        int descriptor = arguments.length == 2 ? parseDescriptor(arguments[1]) : -1;
        if (descriptor < 0) {
            usage();
        }
        Channel channel = Channel.inherited(descriptor);
        int status = 0;
        try {
            switch (arguments[0]) {
                case "--function" -> serveFunction(channel);
                case "--host" -> new Host(channel).serve();
                default -> usage();
            }
        } catch (ProtocolException broken) {
            Descriptors.report("hydra agent: " + broken.getMessage());
            status = PROTOCOL_BROKEN;
        } catch (IOException gone) {
            // The other side closed the channel while the agent was writing: that is its way to end the agent.
            status = 0;
        } catch (Throwable failed) {
            // Such as a heap that the function filled for good.
            Descriptors.report("hydra agent: " + failed);
            status = FAILED;
        }
        // Not System.exit: a function's shutdown hooks must not be able to keep the process alive.
        Runtime.getRuntime().halt(status);
    }

    private static void serveFunction(Channel channel) throws IOException {
        if (System.clearProperty(CHECKPOINTS) != null) {
            FreshSecureRandom.install();
        }
        Output output = new Output(channel);
        System.setOut(output.out());
        System.setErr(output.err());
        new FunctionChannel(channel, output, null).serve(true);
    }

    private static int parseDescriptor(String text) {
        try {
            return Integer.parseInt(text);
        } catch (NumberFormatException e) {
            return -1;
        }
    }

    private static void usage() {
        Descriptors.report("usage: java -cp hydra-agent.jar hydra.agent.Main --function FD | --host FD");
        Runtime.getRuntime().halt(USAGE);
    }
}
