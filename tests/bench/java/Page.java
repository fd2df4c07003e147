import java.util.Map;

/** {@link Work#page} as a function of Hydra. */
public class Page {
    public static Map<String, Object> main(Map<String, Object> arguments) throws Exception {
        return Work.page(arguments);
    }
}
