/** A class that cannot be initialised. */
public class Raises {
    static final int NEVER = fail();

    private static int fail() {
        throw new IllegalStateException("deliberate: not today");
    }

    public static Object main(Object arguments) {
        return NEVER;
    }
}
