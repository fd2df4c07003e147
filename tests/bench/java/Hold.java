import java.util.Map;

/** The page, or a greeting without items, after so many seconds: many such calls at once need many instances. */
public class Hold {
    public static Map<String, Object> main(Map<String, Object> arguments) throws Exception {
        if (arguments.get("hold") instanceof Number seconds) {
            Thread.sleep((long) (seconds.doubleValue() * 1000));
        }
        return arguments.containsKey("items") ? Work.page(arguments) : Work.hello(arguments);
    }
}
