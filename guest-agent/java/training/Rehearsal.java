import java.util.LinkedHashMap;
import java.util.Map;

/** What a copy of the template loads and runs once, before it is put back and waits for a function. */
public class Rehearsal {
    public static Map<String, Object> main(Map<String, Object> arguments) {
        return new LinkedHashMap<>(arguments);
    }
}
