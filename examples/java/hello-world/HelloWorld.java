import java.util.LinkedHashMap;
import java.util.Map;

/** Greets: what a function costs that does nothing. */
public class HelloWorld {
    public static Map<String, Object> main(Map<String, Object> arguments) {
        Object name = arguments.getOrDefault("name", "World");
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("message", "Hello, " + name + "!");
        return result;
    }
}
