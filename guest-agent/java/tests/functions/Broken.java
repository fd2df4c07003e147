/** Cannot be initialised. */
public class Broken {
    static final int VALUE = Integer.parseInt("not a number");

    public static Object main(Object value) {
        return VALUE;
    }
}
