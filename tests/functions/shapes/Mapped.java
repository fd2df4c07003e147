import java.util.HashMap;
import java.util.Map;

/** The original's form of a function in Java: a map to a map. */
public class Mapped {
    public static Map<String, Object> main(Map<String, Object> arguments) {
        Map<String, Object> result = new HashMap<>();
        result.put("greeting", "Hello, " + arguments.get("name") + "!");
        return result;
    }
}
