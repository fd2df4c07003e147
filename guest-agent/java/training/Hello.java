import java.util.LinkedHashMap;
import java.util.Map;

/** The function that the agent runs while its class-data archive is made. */
public class Hello {
    public static Map<String, Object> main(Map<String, Object> arguments) {
        System.out.println("hello");
        if (arguments.containsKey("fail")) {
            throw new IllegalStateException("asked to fail");
        }
        Map<String, Object> result = new LinkedHashMap<>(arguments);
        result.put("greeting", "Hello, " + arguments.get("name") + "!");
        result.put("count", 1);
        return result;
    }
}
