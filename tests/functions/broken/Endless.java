/** A class whose initialisation never ends. */
public class Endless {
    private static volatile int turns;

    static {
        System.out.println("loads");
        while (turns >= 0) {
            turns &= Integer.MAX_VALUE;
        }
    }

    public static Object main(Object arguments) {
        return arguments;
    }
}
